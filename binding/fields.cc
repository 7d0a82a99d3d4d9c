// binding/: see fields.h.
#include "fields.h"

#include <cmath>

namespace lowbit {

Fields::Fields(Napi::Value value, std::string path, Status* status) : value_(value), path_(std::move(path)), status_(status) {
  if (status_->ok() && !value_.IsObject()) *status_ = Error(Code::kInvalidArgument, "Expected an object for %s", path_.c_str());
}

void Fields::Fail(const char* name, const char* expected) {
  if (status_->ok()) *status_ = Error(Code::kInvalidArgument, "Expected %s for %s.%s", expected, path_.c_str(), name);
}

Napi::Value Fields::Get(const char* name) {
  if (!ok()) return Napi::Env(value_.Env()).Undefined();
  const Napi::Value v = value_.As<Napi::Object>().Get(name);
  if (value_.Env().IsExceptionPending() || v.IsEmpty()) {
    value_.Env().GetAndClearPendingException();
    Fail(name, "a readable property");
    return value_.Env().Undefined();
  }
  return v;
}

bool Fields::Has(const char* name) {
  const Napi::Value v = Get(name);
  return ok() && !v.IsUndefined();
}

int64_t Fields::Int(const char* name, int64_t minimum, int64_t maximum) {
  const Napi::Value v = Get(name);
  const double d = v.IsNumber() ? v.As<Napi::Number>().DoubleValue() : NAN;
  if (!(d >= static_cast<double>(minimum) && d <= static_cast<double>(maximum)) || d != std::floor(d)) {
    Fail(name, Format("integer between %lld and %lld", static_cast<long long>(minimum), static_cast<long long>(maximum)).c_str());
    return minimum;
  }
  return static_cast<int64_t>(d);
}

int64_t Fields::IntOr(const char* name, int64_t minimum, int64_t maximum, int64_t fallback) {
  return Has(name) ? Int(name, minimum, maximum) : fallback;
}

double Fields::Number(const char* name) {
  const Napi::Value v = Get(name);
  if (!v.IsNumber()) {
    Fail(name, "a number");
    return 0;
  }
  return v.As<Napi::Number>().DoubleValue();
}

bool Fields::Bool(const char* name) {
  const Napi::Value v = Get(name);
  if (!v.IsBoolean()) {
    Fail(name, "a boolean");
    return false;
  }
  return v.As<Napi::Boolean>().Value();
}

std::string Fields::String(const char* name) {
  const Napi::Value v = Get(name);
  if (!v.IsString()) {
    Fail(name, "a string");
    return std::string();
  }
  return v.As<Napi::String>().Utf8Value();
}

Fields Fields::Object(const char* name) { return Fields(Get(name), path_ + "." + name, status_); }

Napi::Array Fields::Array(const char* name) {
  const Napi::Value v = Get(name);
  if (!v.IsArray()) {
    Fail(name, "an array");
    return Napi::Array::New(value_.Env());
  }
  return v.As<Napi::Array>();
}

}  // namespace lowbit
