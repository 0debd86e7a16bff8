// SPDX-License-Identifier: MIT
#include "every_foreign_header.hpp"
#define min(a, b) (((a) < (b)) ? (a) : (b))
#define max(a, b) (((a) > (b)) ? (a) : (b))
#include "every_header.hpp"

int other();
int other() { return 0; }
