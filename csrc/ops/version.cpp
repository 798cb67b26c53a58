#include "ddit_ext/version.h"

extern "C" __attribute__((visibility("default"))) const char* ddit_ext_version() { return DDIT_EXT_VERSION; }
