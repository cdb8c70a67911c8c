// The Python module mmnorm._C: the passes, the coefficients and their nodes of autograd.
#include <torch/csrc/utils/pybind.h>

#include "coefficients.h"
#include "nodes.h"
#include "passes.h"

PYBIND11_MODULE(_C, module) {
  namespace py = pybind11;
  using namespace mmnorm;
  using release = py::call_guard<py::gil_scoped_release>;

  // Messages of errors without the stack of C++.
  py::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) {
        std::rethrow_exception(thrown);
      }
    } catch (const c10::Error& error) {
      PyErr_SetString(PyExc_RuntimeError, error.what_without_backtrace());
    }
  });

  // Of the functions below, as they are called from Python; to be raised with every change.
  module.attr("INTERFACE") = 5;
  module.def("instructions", &instructions);
  module.def("moments", &moments, release());
  module.def("affine", &affine, release());
  module.def("affine_add", &affine_add, release());
  module.def("plane_sums", &plane_sums, release());
  module.def("plane_sums_add", &plane_sums_add, release());
  module.def("input_gradient", &input_gradient, release());
  module.def("moments_node", &moments_node);
  module.def("affine_node", &affine_node);

  define_mixing(module);
  define_nets(module);
  define_pools(module);
  define_sparsestmax(module);
}
