// Python's view of the native library.
#include <pybind11/pybind11.h>

PYBIND11_MODULE(_native, module) {
  module.doc() = "Native decoding for aicl_fast.";
  module.def("version", [] { return "0.1.0"; });
}
