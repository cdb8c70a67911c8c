// bfloat16 in memory, the upper half of a float, as PyTorch has it.
#pragma once

#include <cstdint>
#include <cstring>

namespace mmnorm {

class Bfloat16 {
 public:
  // Round to nearest, ties to even; what is not a number stays none.
  explicit Bfloat16(float value) {
    uint32_t word;
    std::memcpy(&word, &value, sizeof(word));
    bits_ = static_cast<uint16_t>(value != value ? 0x7fc0 : (word + 0x7fff + ((word >> 16) & 1)) >> 16);
  }

  explicit operator float() const {
    const uint32_t word = static_cast<uint32_t>(bits_) << 16;
    float value;
    std::memcpy(&value, &word, sizeof(value));
    return value;
  }

 private:
  uint16_t bits_;
};

static_assert(sizeof(Bfloat16) == 2, "two bytes in memory");

}  // namespace mmnorm
