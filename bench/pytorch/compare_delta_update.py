# SPDX-License-Identifier: MIT
"""Times the delta update Y = X + beta k (v - X^T k)^T, forward + backward, in PyTorch and in ddl, in one process.

    python3 bench/pytorch/compare_delta_update.py [--threads 16] [--eigen /usr/include/eigen3]

torch.compile fixes the number of threads when it compiles, so a process measures one number of threads.
Outputs and gradients are compared before anything is timed. PyTorch runs eager and through torch.compile. Each figure
is the best of several bursts, ours and theirs in turn. "copy" is torch's copy_ of as many bytes as the update must
move at the least: forward reads X, kt and writes Y, backward reads X, dY, kt and writes dX, dkt.
"""
import ctypes
import os
import sys

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"

import torch  # noqa: E402

from support import arguments, best, build_library  # noqa: E402

SHAPES = [(4096, 768, 4), (4096, 768, 1), (4096, 256, 4), (64, 64, 16), (256, 64, 1)]
K_EPS = 1e-5


def delta_update(X, kt, v, beta):
    k = kt * torch.rsqrt((kt * kt).sum(-1, keepdim=True) + K_EPS**2)
    r = v - torch.einsum("ndm,nd->nm", X, k)
    return X + (beta[:, None] * k)[:, :, None] * r[:, None, :]


def declare(lib):
    lib.ddl_make.restype = ctypes.c_void_p
    lib.ddl_make.argtypes = [ctypes.c_long] * 4
    for name in ["direction", "beta", "value", "direction_gradient", "value_gradient", "beta_gradient"]:
        getattr(lib, "ddl_" + name).restype = ctypes.c_void_p
        getattr(lib, "ddl_" + name).argtypes = [ctypes.c_void_p]
    lib.ddl_forward.argtypes = [ctypes.c_void_p] * 3
    lib.ddl_backward.argtypes = [ctypes.c_void_p] * 3
    lib.ddl_free.argtypes = [ctypes.c_void_p]


def as_tensor(pointer, *shape):
    count = 1
    for size in shape:
        count *= size
    return torch.frombuffer((ctypes.c_float * count).from_address(pointer), dtype=torch.float32).view(*shape)


def compare(lib, threads, N, d, m, compiled):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    X, kt, v = torch.randn(N, d, m), torch.randn(N, d), torch.randn(N, m)
    beta, G = torch.rand(N) * 2, torch.randn(N, d, m)
    leaves = [t.clone().requires_grad_() for t in (X, kt, v, beta)]

    def pytorch(function):
        for t in leaves:
            t.grad = None
        Y = function(*leaves)
        Y.backward(G)
        return Y

    ours = lib.ddl_make(threads, N, d, m)
    as_tensor(lib.ddl_direction(ours), N, d).copy_(kt)
    as_tensor(lib.ddl_beta(ours), N).copy_(beta)
    as_tensor(lib.ddl_value(ours), N, m).copy_(v)
    ours_X, dX = (t.permute(0, 2, 1).clone(memory_format=torch.contiguous_format) for t in (X, G))
    Y = torch.empty_like(ours_X)

    def ddl():
        lib.ddl_forward(ours, ours_X.data_ptr(), Y.data_ptr())
        lib.ddl_backward(ours, ours_X.data_ptr(), dX.data_ptr())

    ddl()
    expected = pytorch(delta_update).detach()
    pairs = [(Y, expected.permute(0, 2, 1)), (dX, leaves[0].grad.permute(0, 2, 1)),
             (as_tensor(lib.ddl_direction_gradient(ours), N, d), leaves[1].grad),
             (as_tensor(lib.ddl_value_gradient(ours), N, m), leaves[2].grad),
             (as_tensor(lib.ddl_beta_gradient(ours), N), leaves[3].grad)]
    for got, wanted in pairs:
        if not (got - wanted).norm() <= 1e-4 * wanted.norm():
            sys.exit("outputs or gradients differ: nothing was timed")

    moved = 4 * N * d * (5 * m + 3)
    source, target = torch.randn(moved // 8), torch.empty(moved // 8)
    # The backward pass works in place, so that dX is its own next input: beta in (0, 2) only shrinks it.
    times = best([ddl, lambda: pytorch(delta_update), lambda: pytorch(compiled), lambda: target.copy_(source)])
    lib.ddl_free(ours)
    own, eager, compile_, copy = times
    print(f"| {threads} | {N} x {d} x {m} | {own*1e3:.3f} | {eager*1e3:.3f} | {compile_*1e3:.3f} | {eager/own:.1f} |"
          f" {compile_/own:.1f} | {copy/own:.2f} |", flush=True)


def main():
    options = arguments(__doc__)
    lib = ctypes.CDLL(build_library("delta_update_library.cpp", options.eigen, options.flags))
    declare(lib)
    print(f"PyTorch {torch.__version__}, {os.cpu_count()} hardware threads, {torch.backends.cpu.get_cpu_capability()}")
    print("\n| threads | N x d x m | ddl ms | eager ms | torch.compile ms | eager / ddl | compile / ddl | copy / ddl |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for shape in SHAPES:
        torch._dynamo.reset()
        compare(lib, options.threads, *shape, torch.compile(delta_update))


if __name__ == "__main__":
    main()
