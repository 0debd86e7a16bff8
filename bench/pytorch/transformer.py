# SPDX-License-Identifier: MIT
"""The DDL Transformer in PyTorch, as a peer to time ddl's against, and a check of it against reference numbers.

    python3 bench/pytorch/transformer.py tests/data/golden/*.safetensors

Prints, for each file, the largest relative RMS error of the logits, the loss and the gradients in float64; the exit
status is 1 if one is above 1e-11 (values) or 1e-10 (gradients). Parameters have the names of the authors' checkpoints.
"""
import json
import struct
import sys

import torch
import torch.nn.functional as F
from torch import nn

DEFAULTS = dict(vocab_size=50304, num_hidden_layers=12, num_attention_heads=6, head_dim=128, hidden_size=768,
                block_size=1024, rope_base=10000.0, rope_ratio=1.0, use_qk_rmsnorm=True, ddl_k_eps=1e-5,
                ddl_beta_single_linear=True, ddl_beta_hidden_size=128, ddl_v_sigmoid=True, ddl_v_sigmoid_scale=4.0,
                ddl_value_channels=4, ddl_state_shortconv_kernel_size=4, input_embed_shortconv_kernel_size=4)


class Settings:
    def __init__(self, variant, **config):
        unknown = set(config) - set(DEFAULTS)
        if unknown:
            raise ValueError(f"settings {sorted(unknown)}: known are {sorted(DEFAULTS)}")
        self.__dict__.update(DEFAULTS | config)
        self.variant = variant
        self.m = 1 if variant == "vdim1" else self.ddl_value_channels


class RMSNorm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.weight


class Attention(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.heads, self.head_dim = s.num_attention_heads, s.head_dim
        inner = self.heads * self.head_dim
        self.c_q, self.c_k, self.c_v = (nn.Linear(s.hidden_size, inner, bias=False) for _ in range(3))
        self.c_proj = nn.Linear(inner, s.hidden_size, bias=False)
        self.q_rms, self.k_rms = ((RMSNorm(self.head_dim) if s.use_qk_rmsnorm else nn.Identity()) for _ in range(2))
        rotated = int(s.rope_ratio * self.head_dim) // 2 * 2
        speed = s.rope_base ** (-torch.arange(0, rotated, 2, dtype=torch.float64) / max(rotated, 1))
        angle = torch.arange(s.block_size, dtype=torch.float64)[:, None] * speed
        dtype = torch.get_default_dtype()
        self.register_buffer("cosine", angle.cos().to(dtype), persistent=False)
        self.register_buffer("sine", angle.sin().to(dtype), persistent=False)

    def rotate(self, x):  # B x heads x T x head_dim
        half = self.cosine.shape[1]
        c, s = self.cosine[: x.shape[2]], self.sine[: x.shape[2]]
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return torch.cat([a * c - b * s, b * c + a * s, rest], -1)

    def forward(self, x):
        B, T, _ = x.shape
        q, k, v = (p(x).view(B, T, self.heads, self.head_dim).transpose(1, 2) for p in (self.c_q, self.c_k, self.c_v))
        q, k = self.q_rms(self.rotate(q)), self.k_rms(self.rotate(k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, -1))


class SwiGLU(nn.Module):
    def __init__(self, s):
        super().__init__()
        d, hidden = s.hidden_size, 8 * s.hidden_size // 3
        self.c_fc1, self.c_fc2 = nn.Linear(d, hidden, bias=False), nn.Linear(d, hidden, bias=False)
        self.c_proj = nn.Linear(hidden, d, bias=False)

    def forward(self, x):
        return self.c_proj(F.silu(self.c_fc1(x)) * self.c_fc2(x))


class DepthwiseConvolution(nn.Module):
    """Causal over tokens: B x T x channels to as many times `outputs` channels."""

    def __init__(self, channels, outputs, kernel):
        super().__init__()
        self.groups = channels
        self.weight = nn.Parameter(torch.zeros(channels * outputs, 1, kernel))

    def forward(self, x):
        padded = F.pad(x.transpose(1, 2), (self.weight.shape[-1] - 1, 0))
        return F.conv1d(padded, self.weight, groups=self.groups).transpose(1, 2)


class TokenCompressor(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.shortconv = DepthwiseConvolution(s.hidden_size * s.m, 1, s.ddl_state_shortconv_kernel_size)
        self.read = nn.Parameter(torch.full((s.m,), 1 / s.m))

    def forward(self, X):
        return self.shortconv(X.flatten(2)).view_as(X) @ self.read


class ChannelCompressor(nn.Module):
    """The convolution over channels and the read are linear: folded into one weight of d x m."""

    def __init__(self, s):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(s.hidden_size, s.ddl_state_shortconv_kernel_size))
        self.read = nn.Parameter(torch.full((s.m,), 1 / s.m))

    def forward(self, X):
        d, kernel = self.weight.shape
        m = len(self.read)
        left = (kernel - 1) // 2
        padded = F.pad(torch.eye(m, dtype=X.dtype), (left, kernel - 1 - left))  # each channel as an input of its own
        mix = self.weight @ (padded.unfold(1, kernel, 1) * self.read[:, None]).sum(1).T
        return (X * mix).sum(-1)


class DeltaUpdate(nn.Module):
    """X + beta k (v - X^T k)^T with the sublayer's output as direction."""

    def __init__(self, s):
        super().__init__()
        self.s = s
        if s.ddl_beta_single_linear:
            self.beta = nn.Linear(s.hidden_size, 1)
        else:
            self.beta_in = nn.Linear(s.hidden_size, s.ddl_beta_hidden_size, bias=False)
            self.beta_out = nn.Linear(s.ddl_beta_hidden_size, 1)
        self.v_proj = nn.Linear(s.hidden_size, s.m)

    def forward(self, X, x_in, c, kt):
        logit = self.beta(c) if self.s.ddl_beta_single_linear else self.beta_out(torch.tanh(self.beta_in(c)))
        beta = 2 * torch.sigmoid(logit)
        v = self.v_proj(x_in)
        if self.s.ddl_v_sigmoid:
            v = self.s.ddl_v_sigmoid_scale * torch.sigmoid(v)
        k = kt * torch.rsqrt(kt.square().sum(-1, keepdim=True) + self.s.ddl_k_eps**2)
        if X.dim() == 3:  # m = 1
            return X + (beta * (v - (X * k).sum(-1, keepdim=True))) * k
        r = v - (k.unsqueeze(-2) @ X).squeeze(-2)
        return X + (beta * k).unsqueeze(-1) * r.unsqueeze(-2)


def compressor(s):
    if s.m == 1:
        return nn.Identity()
    return TokenCompressor(s) if s.variant.startswith("tc") else ChannelCompressor(s)


class Layer(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.compress = compressor(s)
        self.ln_1, self.attn, self.ddl_attn = RMSNorm(s.hidden_size), Attention(s), DeltaUpdate(s)
        self.ln_2, self.mlp, self.ddl_mlp = RMSNorm(s.hidden_size), SwiGLU(s), DeltaUpdate(s)

    def forward(self, X):
        for norm, sublayer, update in ((self.ln_1, self.attn, self.ddl_attn), (self.ln_2, self.mlp, self.ddl_mlp)):
            x_in = self.compress(X)
            c = norm(x_in)
            X = update(X, x_in, c, sublayer(c))
        return X


class Transformer(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s = s
        self.transformer = nn.ModuleDict(dict(wte=nn.Embedding(s.vocab_size, s.hidden_size),
                                              h=nn.ModuleList(Layer(s) for _ in range(s.num_hidden_layers))))
        if s.variant.endswith("_ec"):
            conv = DepthwiseConvolution(s.hidden_size, s.m, s.input_embed_shortconv_kernel_size)
            self.input_embed = nn.ModuleDict(dict(conv=conv))
        self.readout = compressor(s)
        self.ln_f = RMSNorm(s.hidden_size)

    def forward(self, tokens):
        x = self.transformer.wte(tokens)
        if hasattr(self, "input_embed"):
            X = self.input_embed.conv(x).unflatten(-1, (self.s.hidden_size, self.s.m))
        else:
            X = x if self.s.m == 1 else x.unsqueeze(-1).expand(*x.shape, self.s.m)
        for layer in self.transformer.h:
            X = layer(X)
        return F.linear(self.ln_f(self.readout(X)), self.transformer.wte.weight)


def loss_of(model, tokens, targets):
    return F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), ignore_index=-1)


def read_safetensors(path):
    dtypes = dict(F64=torch.float64, F32=torch.float32, I32=torch.int32, I64=torch.int64)
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = bytearray(file.read())
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = torch.frombuffer(data[begin:end], dtype=dtypes[entry["dtype"]]).view(entry["shape"])
    return metadata, tensors


def error(got, wanted):
    return ((got.detach().flatten() - wanted.detach().flatten()).norm() / wanted.norm()).item()


def largest(errors):
    """NaN if one is, which max() would drop."""
    return torch.tensor(errors).max().item()


def check(path):
    metadata, tensors = read_safetensors(path)
    model = Transformer(Settings(metadata["variant"], **json.loads(metadata["config"])))
    parameters = dict(model.named_parameters())
    given = {name[6:]: t for name, t in tensors.items() if name.startswith("param.") and name != "param.lm_head.weight"}
    if given.keys() != parameters.keys():
        sys.exit(f"{path}: parameters differ: {sorted(given.keys() ^ parameters.keys())}")
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(given[name].view_as(p))

    tokens, targets = tensors["idx"].long(), tensors["targets"].long()
    loss_of(model, tokens, targets).backward()
    values = largest([error(model(tokens), tensors["logits"]), error(loss_of(model, tokens, targets), tensors["loss"])])
    gradients = largest([error(p.grad, tensors["grad." + name]) for name, p in parameters.items()])
    passes = values <= 1e-11 and gradients <= 1e-10
    print(f"{path}: logits, loss {values:.1e}  gradients {gradients:.1e}  {'PASS' if passes else 'FAIL'}")
    return passes


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    sys.exit(not all([check(path) for path in sys.argv[1:]]))
