// The Python module mmnorm._C: the passes and coefficients of mmnorm/ops/native_passes.py and native_coefficients.py.
#include <torch/csrc/utils/pybind.h>

#include "coefficients.h"
#include "passes.h"

PYBIND11_MODULE(_C, module) {
  namespace py = pybind11;
  using namespace mmnorm;
  using release = py::call_guard<py::gil_scoped_release>;

  // Of the functions below, as native_passes.py calls them; to be raised with every change.
  module.attr("INTERFACE") = 1;
  module.def("instructions", &instructions);
  module.def("moments", &moments, release());
  module.def("affine", &affine, release());
  module.def("plane_sums", &plane_sums, release());
  module.def("input_gradient", &input_gradient, release());

  py::class_<RunningStats>(module, "RunningStats")
      .def(py::init<at::Tensor, at::Tensor, at::Tensor, std::optional<double>, int64_t>());
  py::class_<Pool>(module, "Pool")
      .def(py::init<const std::vector<std::string>&, const std::vector<int64_t>&, const OptionalTensor&,
                    const OptionalTensor&, std::optional<RunningStats>>());
  module.def("switchable_forward", &switchable_forward, release());
  module.def("switchable_backward", &switchable_backward, release());
  module.def("exemplar_forward", &exemplar_forward, release());
  module.def("exemplar_backward", &exemplar_backward, release());
  module.def("instance_meta_forward", &instance_meta_forward, release());
  module.def("instance_meta_backward", &instance_meta_backward, release());
}
