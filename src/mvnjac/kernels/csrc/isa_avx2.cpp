#define MVNJAC_ISA avx2
#define MVNJAC_SPACE for_avx2
#define MVNJAC_NAME "avx2"
#include "instructions.h"
