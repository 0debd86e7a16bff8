# SPDX-License-Identifier: MIT
"""Times the delta rule over time, forward and forward + backward, in PyTorch and in ddl, in one process.

    python3 bench/pytorch/compare_scan.py --threads 1 [--eigen /usr/include/eigen3]

X_t = e^g X_(t-1) + beta k (v - e^g X_(t-1)^T k)^T, o = X_t^T q / sqrt(d) over 512 tokens and 8 heads of d x d, in float. PyTorch
runs the chunkwise form (Yang et al. 2024) in chunks of 64: all chunks are prepared at once, then a loop goes over them. It
inverts the triangular matrix of a chunk in one of two ways: "rows", a loop over its rows, as models do that have no other
kernel at hand; "solve", torch.linalg.solve_triangular. Outputs and gradients are compared before anything is timed. Each
figure is the best of several bursts, ours and theirs in turn.
"""
import ctypes
import os
import sys

import torch

from support import arguments, best, build_library

T, HEADS, CHUNK = 512, 8, 64
NAMES = ["query", "key", "value", "beta", "log_decay"]


def invert_by_rows(L, *right):
    """(I + L)^-1 times each of `right`, for strictly lower triangular L."""
    inverse = -L
    for i in range(1, CHUNK):
        row = inverse[..., i, :i].clone()
        inverse[..., i, :i] = row + (row.unsqueeze(-1) * inverse[..., :i, :i].clone()).sum(-2)
    inverse = inverse + torch.eye(CHUNK)
    return [inverse @ b for b in right]


def solve(L, *right):
    sizes = [b.shape[-1] for b in right]
    return torch.linalg.solve_triangular(L, torch.cat(right, -1), upper=False, unitriangular=True).split(sizes, -1)


def chunk_scan(invert, q, k, v, beta, g=None):
    """q, k, v: (heads, T, d)   beta, g: (heads, T)."""
    d = q.shape[-1]
    q, k, v = (x.view(HEADS, -1, CHUNK, d) for x in (q * d**-0.5, k, v))
    beta = beta.view(HEADS, -1, CHUNK, 1)
    kk, qk = k @ k.transpose(-1, -2), q @ k.transpose(-1, -2)
    carried = last = None
    if g is not None:
        G = g.view(HEADS, -1, CHUNK).cumsum(-1)
        between = (G[..., :, None] - G[..., None, :]).tril().exp()
        kk, qk = kk * between, qk * between
        carried, last = G.exp()[..., None], G[..., -1, None, None]
        q = q * carried
    U, W = invert((beta * kk).tril(-1), beta * v, beta * k if g is None else beta * carried * k)
    if g is not None:
        k = k * (last - G[..., None]).exp()
        last = last.exp()
    qk = qk.tril()
    X, outputs = torch.zeros(HEADS, d, d), []
    for c in range(T // CHUNK):
        P = U[:, c] - W[:, c] @ X
        outputs.append(q[:, c] @ X + qk[:, c] @ P)
        X = (X if g is None else last[:, c] * X) + k[:, c].transpose(-1, -2) @ P
    return torch.cat(outputs, 1)


def as_tensor(pointer, *shape):
    count = 1
    for size in shape:
        count *= size
    return torch.frombuffer((ctypes.c_float * count).from_address(pointer), dtype=torch.float32).view(*shape)


def load(library):
    lib = ctypes.CDLL(library)
    lib.ddl_make.restype = ctypes.c_void_p
    lib.ddl_make.argtypes = [ctypes.c_long] * 4 + [ctypes.c_int]
    for name in NAMES + ["output"]:
        for suffix in ("", "_gradient"):
            getattr(lib, "ddl_" + name + suffix).restype = ctypes.c_void_p
            getattr(lib, "ddl_" + name + suffix).argtypes = [ctypes.c_void_p]
    for name in ["free", "infer", "forward_backward"]:
        getattr(lib, "ddl_" + name).argtypes = [ctypes.c_void_p]
    return lib


def compare(lib, threads, d, decay):
    torch.manual_seed(0)
    inputs = [torch.randn(HEADS, T, d), torch.nn.functional.normalize(torch.randn(HEADS, T, d), dim=-1),
              torch.randn(HEADS, T, d), 2 * torch.rand(HEADS, T)]
    if decay:
        inputs.append(-0.1 * torch.randn(HEADS, T)**2)
    leaves = [x.requires_grad_() for x in inputs]
    doutput = torch.randn(HEADS, T, d)

    scan = lib.ddl_make(threads, T, HEADS, d, decay)

    def ours(name, like):
        return as_tensor(getattr(lib, "ddl_" + name)(scan), T, *like.transpose(0, 1).shape[1:]).transpose(0, 1)

    with torch.no_grad():
        for name, x in zip([*NAMES[:len(leaves)], "output_gradient"], [*leaves, doutput]):
            ours(name, x).copy_(x)

    def forward(invert):
        with torch.no_grad():
            chunk_scan(invert, *leaves)

    def forward_backward(invert):
        for x in leaves:
            x.grad = None
        output = chunk_scan(invert, *leaves)
        output.backward(doutput)
        return output

    lib.ddl_forward_backward(scan)
    for invert in (invert_by_rows, solve):
        wanted = {"output": forward_backward(invert).detach()}
        wanted.update({name + "_gradient": x.grad for name, x in zip(NAMES, leaves)})
        for name, x in wanted.items():
            error = ((ours(name, x) - x).norm() / x.norm()).item()
            if not error <= 1e-4:
                sys.exit(f"d = {d}, decay {decay}, {invert.__name__}: {name} differs by {error:.1e}: nothing was timed")

    for name, own, theirs in [("forward", lib.ddl_infer, forward),
                              ("forward + backward", lib.ddl_forward_backward, forward_backward)]:
        times = best([lambda: own(scan), lambda: theirs(invert_by_rows), lambda: theirs(solve)], 2)
        ddl, rows, solved = (1e9 * t / (T * HEADS) for t in times)
        print(f"| {d} | {'yes' if decay else 'no'} | {name} | {ddl:.0f} | {rows:.0f} | {solved:.0f} | {rows/ddl:.1f} |"
              f" {solved/ddl:.1f} |", flush=True)
    lib.ddl_free(scan)


def blas():
    """The library that PyTorch multiplies by, where the system tells: Debian's default one is slow, OpenBLAS is not."""
    try:
        with open("/proc/self/maps") as file:
            return ", ".join(sorted({os.path.realpath(line.split()[-1]) for line in file if "blas" in line})) or "built in"
    except OSError:
        return "unknown"


def main():
    options = arguments(__doc__)
    torch.set_num_threads(options.threads)
    lib = load(build_library("scan_library.cpp", options.eigen, options.flags))
    print(f"PyTorch {torch.__version__}, {options.threads} of {os.cpu_count()} hardware threads, BLAS: {blas()}")
    print("\n| d | decay | ns a token and head | ddl | PyTorch, rows | PyTorch, solve | rows / ddl | solve / ddl |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for d in (64, 128):
        for decay in (False, True):
            compare(lib, options.threads, d, decay)


if __name__ == "__main__":
    main()
