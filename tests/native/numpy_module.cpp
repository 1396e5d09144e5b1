// The emulated CUDA kernels as functions of numpy arrays, a Python module for every library: see numpy_tensors.h.
#include "numpy_tensors.h"

PYBIND11_MODULE(emulated, m) {
  for (const numpy_tensors::Part& part : numpy_tensors::parts()) part.define({m.def_submodule(part.library)});
}
