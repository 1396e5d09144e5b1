// From stable-ABI tensors to the plain views of csrc/cuda/kernels.h. Compiled by the host's compiler alone.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "../tensors.h"
#include "kernels.h"

// A torch without CUDA has no such function: weak, so that nothing but a call of it needs one.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace zigzag {
namespace cuda {

using Tensors = std::vector<Tensor>;
using OptionalTensor = std::optional<Tensor>;
using OptionalTensors = std::vector<std::optional<Tensor>>;

// The tensor's device is current while this lives; kernels go to its current stream.
class OnDevice {
 public:
#ifdef ZIGZAG_EMULATED
  explicit OnDevice(const Tensor&) {}
  Stream stream() const { return const_cast<OnDevice*>(this); }  // not the default one, which tests refuse
#else
  explicit OnDevice(const Tensor& t) : guard_(t.get_device_index()) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream_));
  }
  Stream stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  Stream stream_ = nullptr;
#endif
};

inline Map optional_map(const OptionalTensor& t) { return t.has_value() ? map_of(*t) : Map{}; }

inline const int64_t* sizes_of(const OptionalTensor& t) {
  return t.has_value() ? static_cast<const int64_t*>(t->const_data_ptr()) : nullptr;
}

inline const void* table(const OptionalTensor& t) { return t.has_value() ? t->const_data_ptr() : nullptr; }

}  // namespace cuda
}  // namespace zigzag

#ifdef ZIGZAG_EMULATED
#define ZIGZAG_CUDA_IMPL(name, m) STABLE_TORCH_LIBRARY_IMPL(name, CPU, m)
#else
#define ZIGZAG_CUDA_IMPL(name, m) STABLE_TORCH_LIBRARY_IMPL(name, CUDA, m)
#endif
