// The six instructions for tiles that tiles.cpp uses, in plain C++: tests run its code on processors without the unit, and under
// sanitisers. Given to the compiler with -include. Shapes are those of the kernel: 16 rows of 64 bytes.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace at::cpu {
inline bool soft_unit() { return true; }
}  // namespace at::cpu
#define init_amx soft_unit

namespace soft {

struct Tile {
  alignas(64) int8_t bytes[16][64];
};
inline thread_local Tile tiles[8];

inline void load(Tile& to, const void* from, int64_t stride) {
  for (int r = 0; r < 16; r++) std::memcpy(to.bytes[r], static_cast<const char*>(from) + r * stride, 64);
}
inline void store(const Tile& from, void* to, int64_t stride) {
  for (int r = 0; r < 16; r++) std::memcpy(static_cast<char*>(to) + r * stride, from.bytes[r], 64);
}
// sums (16 x 16 of 32 bits) += left (16 x 64 bytes) times right, whose row k holds four inputs of each column.
inline void multiply(Tile& sums, const Tile& left, const Tile& right) {
  int32_t row[16];
  for (int r = 0; r < 16; r++) {
    std::memcpy(row, sums.bytes[r], 64);
    for (int k = 0; k < 16; k++)
      for (int c = 0; c < 16; c++)
        for (int b = 0; b < 4; b++) row[c] += int32_t{left.bytes[r][4 * k + b]} * right.bytes[k][4 * c + b];
    std::memcpy(sums.bytes[r], row, 64);
  }
}

}  // namespace soft

#undef _tile_zero
#undef _tile_loadd
#undef _tile_dpbssd
#undef _tile_stored
#undef _tile_loadconfig
#undef _tile_release
#define _tile_zero(t) std::memset(&soft::tiles[t], 0, 1024)
#define _tile_loadd(t, from, stride) soft::load(soft::tiles[t], from, stride)
#define _tile_dpbssd(sums, left, right) soft::multiply(soft::tiles[sums], soft::tiles[left], soft::tiles[right])
#define _tile_stored(t, to, stride) soft::store(soft::tiles[t], to, stride)
#define _tile_loadconfig(shapes) static_cast<void>(shapes)
#define _tile_release() static_cast<void>(0)
