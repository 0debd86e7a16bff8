// SPDX-License-Identifier: MIT
// Includes every header, as one_definition_other.cpp does: a definition that is not inline fails to link.
#include "every_header.hpp"

int other();

int main() { return other(); }
