// CUDA's vector types with CUDA's sizes and alignments (a float4 is 16-byte aligned, a float3 only
// 4), make_*, dim3. Plain aggregates, as in CUDA: `float4 v = {1, 2, 3, 4}` works, operators are
// the user's to define.
#pragma once

#define HMM_VECTOR1(name, type)                                                                              \
  struct name##1 { type x; };                                                                                \
  static HMM_INLINE name##1 make_##name##1(type x) { return {x}; }
#define HMM_VECTOR2(name, type, align)                                                                       \
  struct __attribute__((aligned(align))) name##2 { type x, y; };                                             \
  static HMM_INLINE name##2 make_##name##2(type x, type y) { return {x, y}; }
#define HMM_VECTOR3(name, type)                                                                              \
  struct name##3 { type x, y, z; };                                                                          \
  static HMM_INLINE name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }
#define HMM_VECTOR4(name, type, align)                                                                       \
  struct __attribute__((aligned(align))) name##4 { type x, y, z, w; };                                       \
  static HMM_INLINE name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
#define HMM_VECTORS(name, type, align2, align4)                                                              \
  HMM_VECTOR1(name, type)                                                                                    \
  HMM_VECTOR2(name, type, align2)                                                                            \
  HMM_VECTOR3(name, type)                                                                                    \
  HMM_VECTOR4(name, type, align4)

HMM_VECTORS(char, signed char, 2, 4)
HMM_VECTORS(uchar, unsigned char, 2, 4)
HMM_VECTORS(short, short, 4, 8)
HMM_VECTORS(ushort, unsigned short, 4, 8)
HMM_VECTORS(int, int, 8, 16)
HMM_VECTORS(uint, unsigned int, 8, 16)
HMM_VECTORS(long, long, 16, 16)
HMM_VECTORS(ulong, unsigned long, 16, 16)
HMM_VECTORS(longlong, long long, 16, 16)
HMM_VECTORS(ulonglong, unsigned long long, 16, 16)
HMM_VECTORS(float, float, 8, 16)
HMM_VECTORS(double, double, 16, 16)

#undef HMM_VECTOR1
#undef HMM_VECTOR2
#undef HMM_VECTOR3
#undef HMM_VECTOR4
#undef HMM_VECTORS

struct dim3 {
  unsigned int x, y, z;
  constexpr dim3(unsigned int vx = 1, unsigned int vy = 1, unsigned int vz = 1) : x(vx), y(vy), z(vz) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
  constexpr operator uint3() const { return {x, y, z}; }
};
