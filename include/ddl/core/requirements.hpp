// SPDX-License-Identifier: MIT
/// @file  What a compilation needs, said in one error: every header includes this one. Compilers go on after
/// an error, so the inclusion of a file that does not exist ends the compilation before errors that only
/// follow from the first.
#pragma once

// (Without /Zc:__cplusplus, MSVC says 199711 in __cplusplus.)
#if (defined(_MSVC_LANG) ? _MSVC_LANG : __cplusplus) < 202002L
#error "ddl needs C++20: compile with -std=c++20 or newer (MSVC: /std:c++20)"
#include "the error above"
#endif
#if !defined(__cpp_exceptions) && !defined(_CPPUNWIND)
#error "ddl reports errors by exceptions: compile without -fno-exceptions (MSVC: with /EHsc)"
#include "the error above"
#endif
