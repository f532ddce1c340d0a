import gc
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch._inductor.config
from torch import nn

from hrfr_fast.engines.base import Batch
from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.model.backbones.improved_resnet import IRBlock
from hrfr_fast.model.backbones.table import IR_VARIANTS
from hrfr_fast.model.heads import build_head
from hrfr_fast.runtime.device import Compute, choose_compute
from hrfr_fast.runtime.errors import HrfrError
from hrfr_fast.training.compiling import build_name
from hrfr_fast.training.fused_kernels import switch_gpu_kernels, with_kernels
from hrfr_fast.training.optim import build_optimizer, set_learning_rate
from hrfr_fast.training.step import TrainStep
from hrfr_fast.training.unchanged import unchanged

CPU = Compute(torch.device("cpu"), None, scaled=False)


def one_block():
    """Every kind of layer of IR-SE-18 once: [B, 3, 16, 16] to [B, 8]."""
    stem = (nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    output = (nn.BatchNorm2d(16), nn.Dropout(0.1), nn.Flatten(), nn.Linear(16 * 64, 8), nn.BatchNorm1d(8))
    block = IRBlock(8, 16, 2, IR_VARIANTS["adaface"], squeeze_excite=True, first=True)
    return nn.Sequential(*stem, block, *output)


def small():
    """What torch.compile has to get right, in as few kernels as can be: [B, 3, 16, 16] to [B, 8]."""
    norm = (nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.PReLU(8))
    return nn.Sequential(*norm, nn.Flatten(), nn.Linear(8 * 64, 8))


def make_step(head="arcface", compute=CPU, dropout=0.1, backbone=None, scaler=None, **more):
    torch.manual_seed(3)
    backbone = compute.place(backbone() if backbone else one_block())
    for module in backbone.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    objective = build_head(head, 8, 12).to(compute.device)
    optimizer = build_optimizer([backbone, objective], lr=0.05)
    scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.scaled, init_scale=256.0)
    return TrainStep(backbone, objective, optimizer, scaler, compute, clip_gradient=5.0, **more)


def batches(count, device="cpu", dtype=torch.float32, size=16):
    generator = torch.Generator().manual_seed(1)
    for number in range(count):
        images = torch.rand(12, 3, size, size, generator=generator) * 2 - 1
        images = images.to(device, dtype).to(memory_format=torch.channels_last)
        yield Batch(images, torch.arange(12).roll(number).to(device), 12 * number)


def run(step, count=6, seed=7, **of_batches):
    """Losses and every tensor of the model after ``count`` steps at changing rates."""
    losses = []
    if seed is not None:
        torch.manual_seed(seed)
    for number, batch in enumerate(batches(count, **of_batches)):
        set_learning_rate(step.optimizer, 0.05 / (1 + number))
        losses.append(step(batch, number))
    tensors = [*step.backbone.state_dict().values(), *step.objective.state_dict().values()]
    return torch.stack(losses).cpu(), [tensor.float().cpu() for tensor in tensors]


@pytest.mark.parametrize("kernels", [True, False])
def test_a_step_leaves_no_cycle_of_references(kernels):
    """Commands look for such cycles seldom (runtime/garbage.py): activations in one would stay for many steps."""
    step = make_step(backbone=lambda: build_backbone(BackboneSettings(16, 8, 8)))
    with_kernels(step.backbone, step.objective, CPU, wanted=kernels)
    run(step, count=1)
    gc.collect()
    with garbage_kept():
        run(step, count=20)
        assert gc.collect() < 20  # some may be of other tests' threads


@contextmanager
def garbage_kept():
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("steps_before", [0, 2])
def test_trial_steps_leave_no_trace(steps_before):
    """Weights, running statistics, AdaFace's averages, momenta and random numbers, fresh or mid-run."""
    plain, tried = make_step("adaface"), make_step("adaface")
    tensors = [id(tensor) for tensor in tried.backbone.parameters()]
    for step in (plain, tried):
        torch.manual_seed(7)
        for number, batch in enumerate(batches(steps_before)):
            step(batch, number)
        if step is tried:
            with unchanged(tried.trained_parts, tried.optimizer, tried.scaler, CPU.device):
                for batch in batches(3):
                    tried(batch, 0)
        step.after = run(step, seed=None)
    assert torch.equal(plain.after[0], tried.after[0])
    assert all(torch.equal(a, b) for a, b in zip(plain.after[1], tried.after[1], strict=True))
    assert tensors == [id(tensor) for tensor in tried.backbone.parameters()]


def test_a_compiled_step_is_the_eager_step(monkeypatch):
    """torch.compile of network and head on the CPU: same losses and weights but for the order of sums."""
    if " " in torch.__file__:
        pytest.skip("torch's compiler for CPUs does not find its libraries in a folder whose name has a space")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"hrfr-fast-tests-{build_name()}"))
    said: list[str] = []
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)  # no pool of processes for a few kernels
    eager = make_step("sphereface", backbone=small)
    compiled = make_step("sphereface", backbone=small, compile="on", say=said.append)
    losses, tensors = run(eager)
    try:
        compiled_losses, compiled_tensors = run(compiled)
    except HrfrError as error:
        if "compiler" in str(error):
            pytest.skip(f"torch.compile needs a C++ compiler on a CPU: {error}")
        raise
    assert any("compiled in" in line for line in said) and compiled._forward is not compiled.backbone
    torch.testing.assert_close(compiled_losses, losses, rtol=1e-4, atol=1e-4)
    for one, other in zip(compiled_tensors, tensors, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def broken_compile(function, **options):
    def run(*arguments):
        raise RuntimeError("no compiler was found\nand a long story")

    return run


def broken_backward(function, **options):
    """The backward pass is compiled last: by then statistics have moved and dropout has drawn."""

    def run(*arguments):
        out = function(*arguments)
        out.register_hook(lambda gradient: broken_compile(function)())
        return out

    return run


@pytest.mark.parametrize("broken", [broken_compile, broken_backward])
def test_a_step_that_cannot_be_compiled_is_taken_all_the_same(monkeypatch, broken):
    scaled = Compute(torch.device("cpu"), None, scaled=True)
    losses, tensors = run(make_step("adaface", scaled))
    monkeypatch.setattr(torch, "compile", broken)
    said: list[str] = []
    step = make_step("adaface", scaled, compile="auto", say=said.append)
    after = run(step)
    assert torch.equal(after[0], losses) and all(map(torch.equal, after[1], tensors))
    assert "the network cannot be compiled: no compiler was found; going on without" in said
    with pytest.raises(HrfrError, match="no compiler was found. Train with --compile off"):
        run(make_step(compile="on"), 1)


def test_an_objective_that_cannot_be_compiled_leaves_the_network_compiled(monkeypatch):
    step = make_step(compile="on")
    losses, _ = run(make_step())
    monkeypatch.setattr(
        torch, "compile", lambda part, **options: broken_compile(part) if part is step.objective else part
    )
    assert torch.equal(run(step)[0], losses) and step.compile == "on"


def test_frozen_parts_stay_and_a_change_is_noticed():
    step = make_step(graphs="auto", compile="off")
    assert step.prepares_next
    step._state = step._modes()
    assert not step.prepares_next
    step.backbone[3].eval()
    assert step.prepares_next, "BatchNorm now behaves otherwise: a captured graph would be stale"
    step.backbone[3].train()
    step.backbone[0].weight.requires_grad_(False)
    assert step.prepares_next


def test_frozen_parameters_are_not_moved_by_clipping_and_steps():
    torch.manual_seed(0)
    backbone, head = one_block(), build_head("arcface", 8, 12)
    backbone.requires_grad_(False).eval()
    optimizer = build_optimizer([backbone, head], lr=0.1)
    step = TrainStep(backbone, head, optimizer, torch.amp.GradScaler("cpu", enabled=False), CPU, clip_gradient=1.0)
    before = [tensor.clone() for tensor in backbone.state_dict().values()]
    weight = head.weight.detach().clone()
    run(step, 2)
    assert all(map(torch.equal, before, backbone.state_dict().values()))
    assert not torch.equal(weight, head.weight)


# ---- on a GPU -------------------------------------------------------------------------------------------------------


@pytest.fixture
def deterministic(monkeypatch):
    """cuDNN's deterministic algorithms and full float32, so that two runs differ by nothing but what is tested."""
    compute = choose_compute("cuda", "fp32")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return compute


@pytest.mark.gpu
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("head", ["arcface", "sphereface", "adaface"])
def test_a_graphed_step_is_the_eager_step(deterministic, head, accumulate):
    """20 steps with changing rates, annealing, averages in buffers and dropout: within 1e-4 of the loss."""
    eager = make_step(head, deterministic, accumulate=accumulate)
    graphed = make_step(head, deterministic, accumulate=accumulate, graphs="on")
    losses, tensors = run(eager, 20, device="cuda")
    graphed_losses, graphed_tensors = run(graphed, 20, device="cuda")
    assert graphed._graph is not None
    torch.testing.assert_close(graphed_losses, losses, rtol=1e-4, atol=1e-4)
    for one, other in zip(graphed_tensors, tensors, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
def test_a_graphed_step_scales_losses_as_the_eager_one():
    compute = choose_compute("cuda", "fp16")
    eager, graphed = make_step(compute=compute, dropout=0.0), make_step(compute=compute, dropout=0.0, graphs="on")
    losses, _ = run(eager, 20, device="cuda", dtype=torch.float16)
    graphed_losses, _ = run(graphed, 20, device="cuda", dtype=torch.float16)
    assert graphed._graph is not None and graphed.scaler.get_scale() == eager.scaler.get_scale()
    torch.testing.assert_close(graphed_losses, losses, rtol=0.02, atol=0.02)


@pytest.mark.gpu
def test_a_graph_follows_what_is_frozen(deterministic):
    """Head alone, then everything: captured anew, and equal to eager steps."""

    def two_phases(**more):
        step = make_step(compute=deterministic, dropout=0.0, **more)
        run(step, 2, device="cuda")  # every parameter has its momentum
        step.backbone.requires_grad_(False).eval()
        frozen = [tensor.clone() for tensor in step.backbone.parameters()]
        run(step, 3, device="cuda")
        assert all(map(torch.equal, frozen, step.backbone.parameters()))
        step.backbone.requires_grad_(True).train()
        return run(step, 3, device="cuda")[0]

    torch.testing.assert_close(two_phases(graphs="on"), two_phases(), rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_a_batch_of_another_shape_needs_no_graph(deterministic):
    graphed, eager = (
        make_step(compute=deterministic, dropout=0, graphs="on"),
        make_step(compute=deterministic, dropout=0),
    )
    for step in (graphed, eager):
        step.losses = [step(batch, 0) for batch in batches(2, device="cuda")]
        batch = next(batches(1, device="cuda"))
        step.losses.append(step(Batch(batch.images[:8], batch.labels[:8], 0), 2))
    torch.testing.assert_close(torch.stack(graphed.losses), torch.stack(eager.losses), rtol=1e-4, atol=1e-4)


def fused_step(**more):
    """A step of a whole network in bf16, its kernels and those of the head switched on where ``kernels`` are."""
    compute = choose_compute("cuda", "bf16")
    step = make_step(compute=compute, dropout=0.0, backbone=lambda: build_backbone(BackboneSettings(16, 8, 8)), **more)
    step.objective.matmul_dtype = torch.bfloat16
    switch_gpu_kernels(step.owned, on="kernels" in more)
    return step


def compiled_variants():
    """Of all kernels of the step, in this process."""
    from hrfr_fast.model.kernels import gate_triton, head_triton, merge_triton, norm_triton, stem_triton

    modules = (gate_triton, head_triton, merge_triton, norm_triton, stem_triton)
    named = ((module, name) for module in modules for name in vars(module))
    kernels = [getattr(module, name) for module, name in named if name.endswith("_kernel")]
    return sum(len(caches[0]) for kernel in kernels for caches in kernel.device_caches.values())


@pytest.mark.gpu
def test_every_kernel_of_a_step_is_compiled_before_the_first():
    """Asked for as it is launched: types, alignment, integers. The steps are those of torch's layers."""
    pytest.importorskip("triton", reason="Triton exists for Linux only")
    said: list[str] = []
    step, given = fused_step(kernels="on", say=said.append), {"device": "cuda", "dtype": torch.bfloat16}
    step.prepare(next(batches(1, **given)))
    before = compiled_variants()
    losses, _ = run(step, 6, **given)
    assert compiled_variants() == before >= int(said[0].split()[1]) > 50
    torch.testing.assert_close(losses, run(fused_step(), 6, **given)[0], rtol=0.02, atol=0.02)
    captured, _ = run(fused_step(kernels="on", graphs="on"), 6, **given)
    torch.testing.assert_close(captured, losses, rtol=0.02, atol=0.02)


@pytest.mark.gpu
@pytest.mark.parametrize("compile", ["off", "on"])
def test_the_bf16_curve_overlays_the_fp32_one(compile):
    """60 steps on six repeated batches: the lean step's smoothed losses stay within 5 % of float32's first loss."""

    def curve(precision, **more):
        compute = choose_compute("cuda", precision)
        network = lambda: build_backbone(BackboneSettings(32, width=16, embedding_size=8))  # noqa: E731
        step = make_step("softmax", compute, 0.0, network, **more)
        data = list(batches(6, device="cuda", dtype=compute.image_dtype, size=32))
        losses = torch.stack([step(data[number % 6], number) for number in range(60)])
        return losses.view(-1, 6).mean(1).cpu()

    plain, lean = curve("fp32"), curve("bf16", graphs="on", compile=compile)
    assert plain[-1] < 0.7 * plain[0], "the curve falls, so that there is something to overlay"
    assert (lean - plain).abs().max() < 0.05 * plain[0]
