# SPDX-License-Identifier: MIT
"""Times a training step of the DDL Transformer (forward, cross-entropy, backward) in PyTorch and in ddl, in one process.

    python3 bench/pytorch/compare_transformer.py [--threads 16] [--eigen /usr/include/eigen3]
        [--variants vdim1 cc_ec] [--batches 1 4 16 64] [--peers eager compile compile_bf16] [--memory]

4 layers, d = 256, 4 heads of 64, vocabulary 256; sequences of 256 tokens, float. Both have the same weights; losses and
gradients are compared before anything is timed. Each figure is the best of several bursts, all contestants in turn.

ddl's rows are a way to keep what backward needs (ddl::Memory) and a number of shards. PyTorch's are eager mode,
torch.compile, and torch.compile under autocast to bfloat16; compiling takes about a minute for each. "ratio" is a row's
time over the best of ddl's rows. With --memory, "MiB" is by how much a process grew at its largest while it made the model
and took three steps; PyTorch keeps all activations. transformer.py checks PyTorch's model against reference numbers.
"""
import argparse
import ctypes
import json
import os
import struct
import subprocess
import sys
import tempfile
import time

import torch

from support import arguments, best, build_library
from transformer import Settings, Transformer, error, largest, loss_of, read_safetensors

MODES = ["training", "reversible", "reversible_recompute"]
VARIANTS = ["vdim1", "tc", "tc_ec", "cc", "cc_ec"]
CONFIG = dict(vocab_size=256, num_hidden_layers=4, num_attention_heads=4, head_dim=64, hidden_size=256, block_size=256)
LENGTH = 256


def make_model(variant):
    torch.manual_seed(1)
    model = Transformer(Settings(variant, **CONFIG))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "conv" in name or "compress" in name or "readout" in name:
                p.add_(0.1 * torch.randn_like(p))
            elif name.endswith("wte.weight"):
                p.mul_(0.02)
    return model


def save(model, path):
    """As the authors' checkpoints."""
    header, data = {"__metadata__": dict(variant=model.s.variant, config=json.dumps(CONFIG))}, b""
    for name, p in model.named_parameters():
        if "shortconv" in name:
            p = p.squeeze(1)
        values = p.detach().numpy().tobytes()
        header[name] = dict(dtype="F32", shape=list(p.shape), data_offsets=[len(data), len(data) + len(values)])
        data += values
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


class Ours:
    def __init__(self, lib, path, threads, mode, shards):
        lib.ddl_make.restype = ctypes.c_void_p
        lib.ddl_step.restype = ctypes.c_float
        self.lib = lib
        self.made = ctypes.c_void_p(lib.ddl_make(path.encode(), ctypes.c_long(threads), MODES.index(mode),
                                                 ctypes.c_long(shards)))

    def __del__(self):
        self.lib.ddl_free(self.made)

    def step(self, tokens, targets):
        sizes = (ctypes.c_long(size) for size in tokens.shape)
        return self.lib.ddl_step(self.made, *(ctypes.c_void_p(t.data_ptr()) for t in (tokens, targets)), *sizes)

    def gradient(self, path):
        self.lib.ddl_save_gradient(self.made, path.encode())
        return read_safetensors(path)[1]


class Theirs:
    def __init__(self, model, peer):
        self.model, self.bf16 = model, peer == "compile_bf16"
        self.run = model if peer == "eager" else torch.compile(model, dynamic=False)

    def step(self, tokens, targets):
        self.model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            loss = loss_of(self.run, tokens, targets)
        loss.backward()
        return loss.item()


def random_batch(size):
    torch.manual_seed(2)
    return [torch.randint(0, 256, (size, LENGTH), dtype=torch.int32) for _ in range(2)]


def contestants(options, lib, variant, size, path):
    """Their names and steps; loss and gradients have been compared."""
    tokens, targets = random_batch(size)
    theirs = tokens.long(), targets.long()
    model = make_model(variant)
    save(model, path)
    expected = Theirs(model, "eager").step(*theirs)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    found = []
    for mode in options.modes:
        for shards in sorted({min(size, shards or size) for shards in options.shards}):
            ours, name = Ours(lib, path, options.threads, mode, shards), f"ddl {mode}, shards: {shards}"
            loss, gradient = ours.step(tokens, targets), ours.gradient(path + ".gradient")
            off = largest([error(gradient[name], g) for name, g in gradients.items()])
            if not (abs(loss - expected) <= 1e-5 * expected and off <= 1e-4):
                sys.exit(f"{variant}, {name}: losses {loss}, {expected}, gradients differ by {off:.1e}: nothing was timed")
            found.append((name, lambda ours=ours: ours.step(tokens, targets)))
    for peer in options.peers:
        start = time.perf_counter()
        peers = Theirs(model, peer)
        loss = peers.step(*theirs)
        if not abs(loss - expected) <= (2e-2 if peers.bf16 else 1e-5) * expected:
            sys.exit(f"{variant}, {peer}: losses {loss}, {expected}: nothing was timed")
        if peer != "eager":
            print(f"{variant}, batch {size}: {peer} took {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        found.append(("PyTorch " + peer, lambda peers=peers: peers.step(*theirs)))
    return found


def growth(options, library, variant, size, path, who):
    """In MiB, in this process, which has taken a step on 8 tokens before: code and threads do not count."""
    lib = ctypes.CDLL(library)

    def steps(tokens, targets):
        if who.startswith("PyTorch"):
            theirs = Theirs(make_model(variant), who.split()[1])
            for _ in range(3):
                theirs.step(tokens.long(), targets.long())
        else:
            mode, shards = who.removeprefix("ddl ").split(", shards: ")
            ours = Ours(lib, path, options.threads, mode, min(int(shards), len(tokens)))
            for _ in range(3):
                ours.step(tokens, targets)

    def kib(key):
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(key))

    tokens, targets = random_batch(int(size))
    steps(tokens[:1, :8].contiguous(), targets[:1, :8].contiguous())
    ctypes.CDLL(None).malloc_trim(0)  # or what those steps gave back would be had for nothing
    before = kib("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the high-water mark starts again
    steps(tokens, targets)
    return (kib("VmHWM") - before) / 1024


def main():
    options = arguments(__doc__, variants=dict(nargs="*", default=VARIANTS), batches=dict(nargs="*", type=int, default=[4]),
                        peers=dict(nargs="*", default=["eager"], choices=["eager", "compile", "compile_bf16"]),
                        modes=dict(nargs="*", default=["training"], choices=MODES),
                        shards=dict(nargs="*", type=int, default=[1, 0], help="0: one for each sequence"),
                        seconds=dict(type=float, default=1, help="for each contestant"),
                        memory=dict(action="store_true"), library=dict(help="built before"), growth=dict(nargs=5, help=argparse.SUPPRESS))
    torch.set_num_threads(options.threads)
    if options.growth:
        return print(growth(options, *options.growth))
    library = options.library or build_library("transformer_library.cpp", options.eigen, options.flags)
    lib = ctypes.CDLL(library)
    print(f"PyTorch {torch.__version__}, {os.cpu_count()} hardware threads, {torch.backends.cpu.get_cpu_capability()}")
    print("\n| threads | variant | batch | contestant | ms | ratio |" + (" MiB |" if options.memory else ""))
    print("| --- | --- | --- | --- | --- | --- |" + (" --- |" if options.memory else ""))
    for variant in options.variants:
        path = os.path.join(tempfile.mkdtemp(), variant + ".safetensors")
        for size in options.batches:
            found = contestants(options, lib, variant, size, path)
            times = best([step for _, step in found], options.seconds)
            ours = min((t for (name, _), t in zip(found, times) if name.startswith("ddl")), default=float("nan"))
            for (name, _), seconds in zip(found, times):
                row = f"| {options.threads} | {variant} | {size} | {name} | {seconds*1e3:.1f} | {seconds/ours:.2f} |"
                if options.memory:
                    grown = subprocess.run([sys.executable, __file__, "--threads", str(options.threads), "--growth", library,
                                            variant, str(size), path, name], check=True, stdout=subprocess.PIPE).stdout
                    row += f" {float(grown):.0f} |"
                print(row, flush=True)


if __name__ == "__main__":
    main()
