// The emulated CUDA kernels as functions of a Python module, of numpy arrays: see numpy_tensors.h.
#include "numpy_tensors.h"

PYBIND11_MODULE(emulated, m) {
  for (const auto define : numpy_tensors::parts()) define({m});
}
