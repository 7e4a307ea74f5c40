// Stands in for the toolkit's header of this name, which TensorRT's headers read.
#pragma once

#include "cuda_runtime.h"
