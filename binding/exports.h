// binding/: the functions of NativeBinding (lib/native.ts), one file per theme.
#pragma once

#include <napi.h>

namespace lowbit {

void ExportInfo(Napi::Env env, Napi::Object exports);
void ExportModel(Napi::Env env, Napi::Object exports);
void ExportContext(Napi::Env env, Napi::Object exports);
void ExportGeneration(Napi::Env env, Napi::Object exports);
void ExportCalibration(Napi::Env env, Napi::Object exports);
void ExportTrials(Napi::Env env, Napi::Object exports);

}  // namespace lowbit
