// Kernels that were compiled ahead of time: each object file has some, the library finds them here.
#pragma once

namespace sparse_ops {

struct Ahead {
  int numbers[7];  // as TapConfig of kernels/configs.py, and whether it is for bfloat16
  const void* kernel;
  const Ahead* next;
  Ahead(const int (&given)[7], const void* kernel);
};

}  // namespace sparse_ops
