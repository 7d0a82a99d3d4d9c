// base/hash: a 64-bit checksum of bytes in memory, fast enough (about 20 GB/s from cache on one core) to check every weight at load.
// It finds damage; it does not resist somebody who looks for collisions. Values are stored in files: changing it needs a new version
// of those files.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lowbit {

// A change of the bytes escapes with a probability of about 2^-64.
uint64_t Hash64(const void* data, size_t size, uint64_t seed);

}  // namespace lowbit
