// Builds a hot loop once per instruction set and picks at load time, where the toolchain can.
#pragma once

#include <cstddef>  // defines __GLIBC__ where there is one: the choice at load time needs its linker

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define DARTBLUR_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
// Loops over bytes and shorts gain only from the rest of AVX-512, and without SSSE3's shuffles can't take pixels apart.
#if __GNUC__ >= 12
#define DARTBLUR_BYTE_CLONES __attribute__((target_clones("arch=x86-64-v4", "avx2", "ssse3", "default")))
#else
#define DARTBLUR_BYTE_CLONES __attribute__((target_clones("avx2", "ssse3", "default")))
#endif
#else
#define DARTBLUR_CLONES
#define DARTBLUR_BYTE_CLONES
#endif

// What a cloned loop calls must be inlined into it, or it would keep the baseline instructions.
#if defined(__GNUC__)
#define DARTBLUR_INLINE inline __attribute__((always_inline))
#else
#define DARTBLUR_INLINE inline
#endif
