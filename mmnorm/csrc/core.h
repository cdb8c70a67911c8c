// The passes over the data as functions of plain memory, without PyTorch: whoever has the tensors checks them, makes the
// outputs and has the threads. They are passes.cpp, for tensors of PyTorch, and loops.cpp, for any caller of C.
#pragma once

#include <cstdint>

namespace mmnorm {

// What an activation is here: its slope below 0; 1 is none, and 0 relu.
constexpr double kNoActivation = 1;

namespace core {

// Of values in memory. Sums and outputs of planes are double for double, else float.
enum class Type : int { Float, Double, Bfloat16 };

// A tensor of values, (N, C, L) in memory, or with channels last (N, L, C).
struct Shape {
  Shape(int64_t samples, int64_t channels, int64_t length, bool contiguous)
      : samples(samples),
        channels(channels),
        length(length),
        // A channels_last tensor that is contiguous too is either; planes of one value are best taken as rows.
        contiguous(contiguous && !(length == 1 && channels > 1)) {}

  int64_t planes() const { return samples * channels; }
  // Neighbouring values: of a plane, or of the channels of a position.
  int64_t rows() const { return contiguous ? planes() : samples * length; }
  int64_t row_size() const { return contiguous ? length : channels; }

  int64_t samples, channels, length;
  bool contiguous;
};

// Numbers of planes, (N, C): float or double.
struct Numbers {
  const void* data;
  Type type;
};

// A function of a part of a range, [begin, end).
class Part {
 public:
  template <typename F>
  explicit Part(const F& f)
      : f_(&f), call_([](const void* f, int64_t begin, int64_t end) { (*static_cast<const F*>(f))(begin, end); }) {}
  void operator()(int64_t begin, int64_t end) const { call_(f_, begin, end); }

 private:
  const void* f_;
  void (*call_)(const void*, int64_t, int64_t);
};

// Calls `part` for parts of [0, size), of `grain` at least, in as many threads as there may be. Whoever links the passes
// defines it.
void parallel_for(int64_t size, int64_t grain, const Part& part);

// The vector instructions that are used: "avx512", "avx2" or "default".
const char* instructions();

// Mean of each plane, and its biased variance.
void moments(const Shape& shape, Type type, const void* x, double* mean, void* var);

// act(scale * (x - mean) + shift)
void affine(const Shape& shape, Type type, const void* x, const double* mean, const Numbers& scale,
            const Numbers& shift, double negative_slope, void* y);

// act(scale * (x - mean) + shift + other), and where `bits` is not nullptr what plane_sums_add is to be given.
void affine_add(const Shape& shape, Type type, const void* x, const double* mean, const Numbers& scale,
                const Numbers& shift, const void* other, double negative_slope, void* y, uint8_t* bits);

// Bytes of those bits for each row.
int64_t bit_bytes(const Shape& shape, Type type);

// Sums of g and of g * (x - mean), with g the gradient of the activation's input; dy is that of its output. Without an
// activation, scale and shift are not read.
void plane_sums(const Shape& shape, Type type, const void* dy, const void* x, const double* mean, const Numbers& scale,
                const Numbers& shift, double negative_slope, void* total, void* product);

// The same after affine_add, and g as dz.
void plane_sums_add(const Shape& shape, Type type, const void* dy, const void* x, const double* mean,
                    const uint8_t* bits, double negative_slope, void* total, void* product, void* dz);

// What the activation's gradient multiplies by, from those bits: negative_slope or 1.
void slopes_of(const Shape& shape, Type type, const uint8_t* bits, double negative_slope, void* slopes);

// -scale * total
void mean_gradient(const Numbers& scale, const Numbers& total, double* result, int64_t size);

// scale * g + slope_factor * slope * (x - mean) + offset_factor * offset. Without an activation, shift is not read.
void input_gradient(const Shape& shape, Type type, const void* dy, const void* x, const double* mean,
                    const Numbers& scale, const Numbers& shift, const Numbers& slope, const Numbers& offset,
                    double slope_factor, double offset_factor, double negative_slope, void* dx);

}  // namespace core
}  // namespace mmnorm
