#define MVNJAC_ISA avx512
#define MVNJAC_SPACE for_avx512
#define MVNJAC_NAME "avx512"
#include "instructions.h"
