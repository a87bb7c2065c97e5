// Linear layers as steps: what is asked for, checked.
#include "linear.h"

namespace sparse_ops {
namespace program {

static constexpr int64_t kAttributes = 5;

LinearSizes::LinearSizes(const Parts& parts) : kernels(parts.kernels) {
  const std::vector<int64_t>& a = parts.attributes;
  STD_TORCH_CHECK(static_cast<int64_t>(a.size()) == kAttributes, "a linear layer has ", kAttributes,
                  " attributes, got ", a.size());
  STD_TORCH_CHECK(a[0] == kRows || a[0] == kDense, "a linear layer's form is 0 or 1, got ", a[0]);
  form = static_cast<Form>(a[0]);
  const int64_t most = std::numeric_limits<int32_t>::max();
  STD_TORCH_CHECK(a[1] >= 1 && a[1] < most && a[2] >= 1 && a[2] < most,
                  "a linear layer's features must be 1 to 2^31 - 2, got ", a[1], " and ", a[2]);
  out = a[1];
  in = a[2];
  activation = activation_of(parts, a[3]);
  STD_TORCH_CHECK(a[4] == 0 || a[4] == 1, "residual is 0 or 1, got ", a[4]);
  residual = a[4] == 1;
}

TurnedLinear::TurnedLinear(const LinearSizes& sizes, const Weights& weights)
    : units((sizes.out + kLanes - 1) / kLanes),
      step((sizes.in + 1) * kLanes),
      values(units * step),
      bias(units * kLanes) {
  const float* from = data(weights.values);
  if (weights.bias) std::copy_n(data(weights.bias), sizes.out, bias.get());
  torch::stable::parallel_for(0, units, 1, [&](int64_t u0, int64_t u1) {
    for (int64_t u = u0; u < u1; ++u) {
      const int64_t filled = std::min(kLanes, sizes.out - u * kLanes);
      for (int64_t i = 0; i < filled; ++i)
        for (int64_t k = 0; k < sizes.in; ++k)
          values.get()[u * step + k * kLanes + i] = from[(u * kLanes + i) * sizes.in + k];
    }
  });
}

namespace {

class Linear : public Step {
 public:
  Linear(const LinearSizes& sizes, Weights weights) : given_(sizes, std::move(weights)) {}

  Shape infer(const std::vector<Shape>& in) const override {
    const LinearSizes& s = given_.sizes;
    const size_t wanted = s.residual ? 2 : 1;
    STD_TORCH_CHECK(in.size() == wanted, "a linear layer ", s.residual ? "with" : "without",
                    " residual has ", wanted, " inputs, got ", in.size());
    STD_TORCH_CHECK(in[0].rank == 2 && in[0].c == s.in, "x must be (N, ", s.in, "), got rank ",
                    in[0].rank, " with ", in[0].c, " features");
    if (s.residual)
      STD_TORCH_CHECK(in[1].rank == 2 && in[1].n == in[0].n && in[1].c == s.out,
                      "residual must be (", in[0].n, ", ", s.out, "), got rank ", in[1].rank, " (",
                      in[1].n, ", ", in[1].c, ")");
    return {2, in[0].n, s.out, 1, 1};
  }

  std::unique_ptr<Ready> ready(const std::vector<Spec>& in, const Spec& out) const override {
    for (const Spec& spec : in)
      STD_TORCH_CHECK(spec.order == kPlanar && spec.halo == 0, "linear layers read PLANAR values");
    STD_TORCH_CHECK(out.order == kPlanar && out.halo == 0, "linear layers write PLANAR values");
    if (given_.sizes.form == kDense) return ready_dense_linear(given_, out.shape.n);
    return ready_sparse_linear(given_, out.shape.n);
  }

 private:
  GivenLinear given_;
};

}  // namespace

std::unique_ptr<Step> make_linear(const Parts& parts) {
  const LinearSizes sizes(parts);
  return std::make_unique<Linear>(sizes, Weights(parts, sizes.form, sizes.out, sizes.in, false));
}

}  // namespace program
}  // namespace sparse_ops
