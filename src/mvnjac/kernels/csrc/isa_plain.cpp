#define MVNJAC_ISA plain
#define MVNJAC_SPACE for_plain
#define MVNJAC_NAME "plain"
#include "instructions.h"
