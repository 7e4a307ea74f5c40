// What lets one per-pixel core compile for the processor and for a GPU.
#pragma once

#ifdef __CUDACC__
#define DARTBLUR_HD __host__ __device__ inline
#else
#define DARTBLUR_HD inline
#endif
