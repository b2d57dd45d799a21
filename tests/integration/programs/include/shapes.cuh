// A user's header file: types of kernel parameters, found through options=("-I...",).
#pragma once
#define FROM_HEADER(x) ((x) * 7)

enum class Kind : unsigned char { still = 1, moving = 2 };

template <typename T, int N> struct Vector {
  T at[N];
  __device__ T& operator[](int i) { return at[i]; }
  __device__ const T& operator[](int i) const { return at[i]; }
  __device__ Vector operator*(T by) const {
    Vector r;
    for (int i = 0; i < N; ++i) r[i] = at[i] * by;
    return r;
  }
  __device__ Vector& operator+=(const Vector& other) {
    for (int i = 0; i < N; ++i) at[i] += other[i];
    return *this;
  }
};

struct __align__(16) Body {
  using Place = Vector<float, 3>;
  Place place;
  double mass;
  Kind kind;
  __device__ void move(const Place& by) { place += by; }
};
