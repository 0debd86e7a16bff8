# SPDX-License-Identifier: MIT
"""What the comparisons with PyTorch share: building our side, and timing in turns."""
import argparse
import os
import re
import shlex
import subprocess
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def arguments(description, **more):
    """--threads, --eigen, --flags, and what a comparison has besides: name=settings of add_argument."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--eigen", default="/usr/include/eigen3", help="where Eigen's headers are")
    parser.add_argument("--flags", default="", help='more for the compiler, as "-DEIGEN_USE_BLAS -lopenblas"')
    for name, settings in more.items():
        parser.add_argument("--" + name, **settings)
    return parser.parse_args()


def build_library(source, eigen, flags):
    library = os.path.join(tempfile.mkdtemp(), source + ".so")
    optimise = ["-O3", "-DNDEBUG", "-march=native"]
    subprocess.run(
        ["g++", "-std=c++20", *optimise, "-fPIC", "-shared", "-pthread",
         "-I" + os.path.join(HERE, "..", "..", "include"), "-isystem", eigen, os.path.join(HERE, source),
         "-o", library, *shlex.split(flags)], check=True)
    compiler = subprocess.run(["g++", "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout.split("\n")[0]
    macros = subprocess.run(["g++", "-E", "-dM", "-x", "c++", "-isystem", eigen, "-include", "Eigen/Core", os.devnull],
                            check=True, stdout=subprocess.PIPE, text=True).stdout
    version = (re.search(rf"#define EIGEN_{part}_VERSION (\d+)", macros).group(1) for part in ("WORLD", "MAJOR", "MINOR"))
    print(f"{compiler}, {' '.join(optimise)} {flags}, Eigen {'.'.join(version)}")
    return library


def best(functions, seconds=1.0):
    """The best time of each function; they run in turns, each untimed for 20 ms first: the other's threads may spin on."""
    repeats = []
    for f in functions:
        for _ in range(3):
            f()
        start = time.perf_counter()
        f()
        repeats.append(max(1, int(2e-3 / (time.perf_counter() - start))))
    times = [float("inf")] * len(functions)
    end = time.perf_counter() + seconds * len(functions)
    while time.perf_counter() < end:
        for i, f in enumerate(functions):
            start = time.perf_counter()
            while time.perf_counter() < start + 0.02:
                f()
            start = time.perf_counter()
            for _ in range(repeats[i]):
                f()
            times[i] = min(times[i], (time.perf_counter() - start) / repeats[i])
    return times
