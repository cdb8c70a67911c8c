// The Python module mmnorm._C: the passes, the coefficients and the node of mmnorm/ops/native*.py.
#include <torch/csrc/utils/pybind.h>

#include "coefficients.h"
#include "node.h"
#include "passes.h"

PYBIND11_MODULE(_C, module) {
  namespace py = pybind11;
  using namespace mmnorm;
  using release = py::call_guard<py::gil_scoped_release>;

  // Of the functions below, as they are called from Python; to be raised with every change.
  module.attr("INTERFACE") = 2;
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
  py::class_<Form, std::shared_ptr<Form>>(module, "Form");
  py::class_<SwitchableForm, Form, std::shared_ptr<SwitchableForm>>(module, "SwitchableForm")
      .def(py::init<Pool, double>());
  py::class_<ExemplarForm, Form, std::shared_ptr<ExemplarForm>>(module, "ExemplarForm")
      .def(py::init<Pool, double, bool, bool>());
  py::class_<InstanceMetaForm, Form, std::shared_ptr<InstanceMetaForm>>(module, "InstanceMetaForm")
      .def(py::init<Pool, double, std::string, std::string>());
  module.def("normalize", &normalize);
}
