// A device on which torch computes with the CPU's kernels, as strict as CUDA is: built and explained by strict_device.py.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/native/TensorFactories.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/library.h>

namespace {

constexpr auto STRICT = c10::DeviceType::PrivateUse1;
const c10::Device DEVICE(STRICT, 0);

// ---- memory, streams, generators

struct Memory final : at::Allocator {
  at::DataPtr allocate(size_t bytes) override {
    void* data = c10::alloc_cpu(bytes);
    return {data, data, &c10::free_cpu, DEVICE};
  }
  at::DeleterFnPtr raw_deleter() const override { return &c10::free_cpu; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};
Memory memory;
REGISTER_ALLOCATOR(STRICT, &memory)

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return STRICT; }
  c10::Device exchangeDevice(c10::Device) const override { return DEVICE; }
  c10::Device getDevice() const override { return DEVICE; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return c10::Stream(c10::Stream::DEFAULT, DEVICE); }
  c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void synchronizeDevice(const c10::DeviceIndex) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

struct Generator final : at::CPUGeneratorImpl {
  Generator() { device_ = DEVICE, key_set_ = c10::DispatchKeySet(c10::DispatchKey::PrivateUse1); }
  void set_current_seed(uint64_t seed) override { numbers.set_current_seed(seed); }
  uint64_t current_seed() const override { return numbers.current_seed(); }
  uint64_t seed() override { return const_cast<at::Generator&>(numbers).seed(); }
  at::Generator numbers = at::detail::createCPUGenerator();
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::make_generator<Generator>(); }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    static at::Generator generator = getNewGenerator(0);
    return generator;
  }
};

// ---- tensors: made, viewed, copied

at::Tensor empty(c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &memory,
                                   c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &memory,
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(dtype));
}

bool is_strict(const at::Tensor& x) { return x.defined() && x.device().type() == STRICT; }

// The same memory as a CPU tensor.
at::Tensor on_cpu(const at::Tensor& x) {
  if (!is_strict(x)) return x;
  return at::from_blob(x.data_ptr(), x.sizes(), x.strides(), x.options().device(at::kCPU).requires_grad(false));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  on_cpu(to).copy_(on_cpu(from));
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  if (to.sizes() != from.sizes()) at::native::resize_(to, from.sizes());
  return copy_from(from, to, false);
}

at::Tensor as_strided(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
                      std::optional<c10::SymInt> offset) {
  return at::native::as_strided_tensorimpl(
      self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
      offset ? std::optional<int64_t>(offset->expect_int()) : std::nullopt);
}

at::Tensor view(const at::Tensor& self, c10::SymIntArrayRef size) {
  return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size));
}

at::Tensor reshape_alias(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::_reshape_alias(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}

const at::Tensor& resize(const at::Tensor& self, c10::SymIntArrayRef size, std::optional<at::MemoryFormat> format) {
  return at::native::resize_(self, C10_AS_INTARRAYREF_SLOW(size), format);
}

at::Tensor& set_storage(at::Tensor& self, at::Storage storage, c10::SymInt offset, c10::SymIntArrayRef size,
                        c10::SymIntArrayRef stride) {
  return at::native::set_storage_cpu_(self, storage, offset.expect_int(), C10_AS_INTARRAYREF_SLOW(size),
                                      C10_AS_INTARRAYREF_SLOW(stride));
}

at::Scalar item(const at::Tensor& self) { return on_cpu(self).item(); }

// ---- kernels with CUDA's demands

void demand_same(const char* kernel, const at::Tensor& x, const at::Tensor& other) {
  if (!other.defined()) return;
  TORCH_CHECK(x.device() == other.device(), "Expected all tensors to be on the same device, but ", kernel, " got ",
              x.device(), " and ", other.device());
  TORCH_CHECK(x.scalar_type() == other.scalar_type(), kernel, ": expected scalar type ", x.scalar_type(),
              " but found ", other.scalar_type());
}

using Three = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

Three strict(const Three& results) {
  auto there = [](const at::Tensor& x) { return x.defined() ? x.to(DEVICE) : x; };
  return {there(std::get<0>(results)), there(std::get<1>(results)), there(std::get<2>(results))};
}

Three group_norm(const at::Tensor& x, const std::optional<at::Tensor>& weight, const std::optional<at::Tensor>& bias,
                 c10::SymInt n, c10::SymInt c, c10::SymInt pixels, int64_t groups, double eps) {
  TORCH_CHECK(x.is_contiguous(), "Expected X.is_contiguous(memory_format) to be true, but got false.");
  for (const auto& part : {weight, bias})
    if (part) demand_same("native_group_norm", x, *part);
  auto cpu = [](const std::optional<at::Tensor>& t) { return t ? std::optional<at::Tensor>(on_cpu(*t)) : t; };
  return strict(at::native_group_norm_symint(on_cpu(x), cpu(weight), cpu(bias), n, c, pixels, groups, eps));
}

// CUDA's reads its inputs as if they were contiguous, whatever they are: a wrong gradient without an error.
Three group_norm_backward(const at::Tensor& gradient, const at::Tensor& x, const at::Tensor& mean,
                          const at::Tensor& rstd, const std::optional<at::Tensor>& weight, c10::SymInt n,
                          c10::SymInt c, c10::SymInt pixels, int64_t groups, std::array<bool, 3> mask) {
  TORCH_CHECK(x.is_contiguous() && gradient.is_contiguous(), "native_group_norm_backward reads plain memory only");
  demand_same("native_group_norm_backward", x, gradient);
  if (weight) demand_same("native_group_norm_backward", x, *weight);
  auto w = weight ? std::optional<at::Tensor>(on_cpu(*weight)) : weight;
  return strict(at::native_group_norm_backward_symint(on_cpu(gradient), on_cpu(x), on_cpu(mean), on_cpu(rstd), w, n, c,
                                                      pixels, groups, mask));
}

// As torch does for CUDA, whose kernel takes no other format; for a device that it does not know it trusts the caller.
at::Tensor group_norm_of_any(const at::Tensor& x, int64_t groups, const std::optional<at::Tensor>& weight,
                             const std::optional<at::Tensor>& bias, double eps, bool) {
  auto n = x.sym_size(0), c = x.sym_size(1);
  auto pixels = n * c == 0 ? c10::SymInt(0) : x.sym_numel() / (n * c);
  return std::get<0>(at::native_group_norm_symint(x.contiguous(), weight, bias, n, c, pixels, groups, eps));
}

Three layer_norm(const at::Tensor& x, c10::SymIntArrayRef shape, const std::optional<at::Tensor>& weight,
                 const std::optional<at::Tensor>& bias, double eps) {
  for (const auto& part : {weight, bias})
    if (part) demand_same("native_layer_norm", x, *part);
  auto cpu = [](const std::optional<at::Tensor>& t) { return t ? std::optional<at::Tensor>(on_cpu(*t)) : t; };
  return strict(at::native_layer_norm_symint(on_cpu(x), shape, cpu(weight), cpu(bias), eps));
}

at::Tensor convolution(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                       c10::SymIntArrayRef stride, c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation,
                       bool transposed, c10::SymIntArrayRef output_padding, c10::SymInt groups) {
  demand_same("convolution", x, weight);
  if (bias) demand_same("convolution", x, *bias);
  auto b = bias ? std::optional<at::Tensor>(on_cpu(*bias)) : bias;
  return at::convolution_symint(on_cpu(x), on_cpu(weight), b, stride, padding, dilation, transposed, output_padding,
                                groups).to(DEVICE);
}

Three convolution_backward(const at::Tensor& gradient, const at::Tensor& x, const at::Tensor& weight,
                           c10::SymIntArrayRef stride, c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation,
                           bool transposed, c10::SymIntArrayRef output_padding, c10::SymInt groups,
                           std::array<bool, 3> mask) {
  demand_same("convolution_backward", x, weight);
  demand_same("convolution_backward", x, gradient);
  return strict(at::convolution_backward_symint(on_cpu(gradient), on_cpu(x), on_cpu(weight), at::OptionalSymIntArrayRef(),
                                                stride, padding, dilation, transposed, output_padding, groups, mask));
}

int64_t attention_by_plain_mathematics(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                       const std::optional<at::Tensor>&, double, bool, std::optional<double>, bool) {
  return 0;
}

// ---- everything else: the CPU's kernel, after what any CUDA kernel demands

void demand_one_device(const std::string& kernel, const at::Tensor& x) {
  if (!x.defined() || is_strict(x) || x.dim() == 0) return;
  TORCH_CHECK(false, "Expected all tensors to be on the same device, but found at least two devices, ", DEVICE,
              " and ", x.device(), ", in ", kernel);
}

void any_other(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& name = op.schema().name();
  const bool takes_cpu_indices = name == "aten::index" || name == "aten::index_put_" || name == "aten::_index_put_impl_";
  auto arguments = torch::jit::last(stack, op.schema().arguments().size());
  for (size_t i = 0; i < arguments.size(); ++i) {
    auto& argument = (*stack)[stack->size() - arguments.size() + i];
    if (argument.isTensor()) {
      demand_one_device(name, argument.toTensor());
    } else if (argument.isTensorList()) {
      for (const at::Tensor& x : argument.toTensorVector()) demand_one_device(name, x);
    } else if (argument.isGenerator()) {
      auto generator = argument.toGenerator();
      TORCH_CHECK(generator.device().type() == STRICT, "Expected a '", DEVICE, "' device type for generator but found '",
                  generator.device(), "'");
      argument = generator.get<Generator>()->numbers;
    } else if (argument.isList() && !takes_cpu_indices) {
      for (const c10::IValue& x : argument.toListRef())
        if (x.isTensor()) demand_one_device(name, x.toTensor());
    }
  }
  at::native::cpu_fallback(op, stack);
}

TORCH_LIBRARY_IMPL(aten, AutogradPrivateUse1, m) { m.impl("group_norm", &group_norm_of_any); }

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&any_other>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", &as_strided);
  m.impl("view", &view);
  m.impl("_reshape_alias", &reshape_alias);
  m.impl("resize_", &resize);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_local_scalar_dense", &item);
  m.impl("group_norm", &group_norm_of_any);
  m.impl("native_group_norm", &group_norm);
  m.impl("native_group_norm_backward", &group_norm_backward);
  m.impl("native_layer_norm", &layer_norm);
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
  m.impl("_fused_sdp_choice", &attention_by_plain_mathematics);
}

struct Registration {
  Registration() { at::RegisterPrivateUse1HooksInterface(new Hooks()); }
} registration;

}  // namespace
