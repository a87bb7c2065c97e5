// How large the second cache of this machine is, by which work is cut into pieces.
#pragma once
#include <cstdint>

namespace sparse_ops {

// In floats: what the system says, from 256 KiB to 2 MiB, or 1 MiB where it says nothing; read
// once. The variable SPARSE_OPS_SECOND_CACHE, bytes, says otherwise, for tests.
int64_t second_cache();

}  // namespace sparse_ops
