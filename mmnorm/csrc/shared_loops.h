// shared_kernels.h for each set of vector instructions, once, whichever files of loops are compiled together.
#pragma once

#include <cmath>
#include <cstdint>

#define MMNORM_KERNELS "shared_kernels.h"
#include "instructions.h"
