// binding/: reads named fields of JS objects. The first problem is kept and names the field; later reads return defaults, so
// that call sites stay a list of fields followed by one check. Meaning is checked in lib/; here is what memory safety needs.
#pragma once

#include <napi.h>

#include <cstdint>
#include <string>

#include "base/status.h"

namespace lowbit {

class Fields {
 public:
  // `status` collects the first problem over all Fields of one call.
  Fields(Napi::Value value, std::string path, Status* status);

  int64_t Int(const char* name, int64_t minimum, int64_t maximum);
  int64_t IntOr(const char* name, int64_t minimum, int64_t maximum, int64_t fallback);  // fallback when undefined
  double Number(const char* name);
  bool Bool(const char* name);
  std::string String(const char* name);
  Fields Object(const char* name);
  Napi::Array Array(const char* name);  // an empty array on error
  bool Has(const char* name);           // present and not undefined
  Napi::Value Get(const char* name);
  // Typed arrays: pointer and length; the caller keeps a reference for as long as it uses the pointer.
  template <typename T>
  T* Typed(const char* name, napi_typedarray_type type, size_t* length);

  const std::string& path() const { return path_; }
  void Fail(const char* name, const char* expected);
  bool ok() const { return status_->ok(); }

 private:
  Napi::Value value_;
  std::string path_;
  Status* status_;
};

template <typename T>
T* Fields::Typed(const char* name, napi_typedarray_type type, size_t* length) {
  *length = 0;
  const Napi::Value v = Get(name);
  if (!ok()) return nullptr;
  if (!v.IsTypedArray() || v.As<Napi::TypedArray>().TypedArrayType() != type) {
    Fail(name, "a typed array of the documented type");
    return nullptr;
  }
  Napi::TypedArrayOf<T> array = v.As<Napi::TypedArrayOf<T>>();
  *length = array.ElementLength();
  return array.Data();
}

}  // namespace lowbit
