// What every file of the shim shares: the error slot and the guard that keeps C++ exceptions inside C++.
// A tensor crosses as `at::Tensor*`, which is exactly tch's `C_tensor*`; returned pointers are owned by the caller.
#pragma once
#include <cstdint>
#include <exception>

void ov_set_error(const char *message);

// Runs `f`; an exception becomes the thread's error message and the value `failed`.
template <class T, class F> T ov_guard(T failed, F f) {
  try {
    return f();
  } catch (const std::exception &e) {
    ov_set_error(e.what());
  } catch (...) {
    ov_set_error("unknown C++ exception");
  }
  return failed;
}
