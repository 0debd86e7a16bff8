// SPDX-License-Identifier: MIT
#include "every_header.hpp"

int other();
int other() { return 0; }
