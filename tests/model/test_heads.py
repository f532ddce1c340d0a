"""Heads against the papers' formulas: angles by arccos, float64, NumPy, gradients by central differences."""

import math

import numpy as np
import pytest
import torch

from hrfr_fast.model import heads
from hrfr_fast.model.heads import HEADS, build_head
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.settings import choices

DIMENSIONS, CLASSES = 6, 5
MARGINS = {"arcface": 0.5, "cosface": 0.35, "sphereface": 4, "combined": 0.3, "adaface": 0.4, "softmax": 0}
SCALES = dict.fromkeys(MARGINS, 64.0) | {"softmax": 32.0}


def arc(theta, m):
    return np.cos(theta + m) if theta + m <= math.pi else np.cos(theta) - m * math.sin(m)


def psi(angle):
    k = min(int(angle / math.pi + 1e-12), 10**6)
    return (-1) ** k * np.cos(angle) - 2 * k


def reference_target(name, theta, quality=0.0, step=0, m1=1.0, m3=0.2):
    """The target's logit over s from the angle theta, one number."""
    m = MARGINS[name]
    if name == "arcface":
        return arc(theta, m)
    if name == "cosface":
        return np.cos(theta) - m
    if name == "sphereface":
        mix = max(5, 1000 / (1 + 0.12 * step))
        return (mix * np.cos(theta) + psi(m * theta)) / (1 + mix)
    if name == "combined":
        return (arc(theta, m) if m1 == 1 else psi(m1 * theta + m)) - m3
    if name == "adaface":
        shifted = 1.0 if theta - m * quality < 0 else arc(theta, -m * quality)
        return shifted - (m * quality + m)
    return np.cos(theta)


def qualities(embeddings, mean, std):
    norms = np.linalg.norm(embeddings, axis=1).clip(0.001, 100)
    return (0.333 * (norms - mean) / (std + 1e-3)).clip(-1, 1)


def reference_loss(name, embeddings, weight, labels, step=0, quality=None, **margins):
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = (unit @ (weight / np.linalg.norm(weight, axis=1, keepdims=True)).T).clip(-1, 1)
    losses = []
    for row, (values, label) in enumerate(zip(cosines, labels, strict=True)):
        q = 0.0 if quality is None else quality[row]
        logits = values.copy()
        logits[label] = reference_target(name, math.acos(values[label]), q, step, **margins)
        logits *= SCALES[name]
        top = logits.max()
        losses.append(top + math.log(np.exp(logits - top).sum()) - logits[label])
    return np.array(losses)


def slopes(function, values, step=1e-6):
    """Central differences of the sum of ``function`` in every entry of ``values``."""
    result = np.empty_like(values)
    for index in np.ndindex(values.shape):
        moved = values.copy()
        moved[index] += step
        upper = function(moved).sum()
        moved[index] -= 2 * step
        result[index] = (upper - function(moved).sum()) / (2 * step)
    return result


def example(seed=0):
    """Embeddings with the targets' angles spread over (0, pi): easy, hard, and past pi - m."""
    generator = np.random.default_rng(seed)
    weight = generator.normal(size=(CLASSES, DIMENSIONS))
    labels = np.arange(8) % CLASSES
    embeddings = []
    for label, theta in zip(labels, [0.15, 0.6, 1.0, 1.4, 1.9, 2.5, 2.85, 3.0], strict=True):
        axis = weight[label] / np.linalg.norm(weight[label])
        other = generator.normal(size=DIMENSIONS)
        other -= axis * (other @ axis)
        direction = math.cos(theta) * axis + math.sin(theta) * other / np.linalg.norm(other)
        embeddings.append(direction * generator.uniform(1, 6))
    return np.array(embeddings), weight, labels


WHOLE, CHUNKED = heads.ENTRIES, 16  # at 8 rows: 2 classes at a time


def prepared(name, weight, entries=WHOLE, **options):
    """A head in eval mode (AdaFace's averages stand still, at values near the example's norms)."""
    head = build_head(name, weight.shape[1], len(weight), **options).eval()
    head.chunk_entries = entries
    head.weight.data.copy_(torch.from_numpy(weight))
    if name == "adaface":
        head.mean.fill_(3.0)
        head.std.fill_(1.5)
    return head


def computed(head, embeddings, labels, step=0):
    tensor = torch.tensor(embeddings, dtype=torch.float32, requires_grad=True)
    losses = head(tensor, torch.from_numpy(labels), step, reduction="none")
    losses.sum().backward()
    return losses.detach().numpy(), tensor.grad.numpy(), head.weight.grad.numpy()


def compare(head, name, embeddings, weight, labels, step=0, **margins):
    quality = qualities(embeddings, 3.0, 1.5) if name == "adaface" else None
    losses, by_embedding, by_weight = computed(head, embeddings, labels, step)
    more = {"step": step, "quality": quality, **margins}
    np.testing.assert_allclose(losses, reference_loss(name, embeddings, weight, labels, **more), rtol=2e-5, atol=2e-4)
    expected = slopes(lambda e: reference_loss(name, e, weight, labels, **more), embeddings)
    np.testing.assert_allclose(by_embedding, expected, rtol=2e-3, atol=2e-3)
    expected = slopes(lambda w: reference_loss(name, embeddings, w, labels, **more), weight)
    np.testing.assert_allclose(by_weight, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("entries", [WHOLE, CHUNKED, 1], ids=["whole", "chunks", "one by one"])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", list(HEADS))
def test_loss_and_gradients_are_those_of_the_formula(name, seed, entries):
    embeddings, weight, labels = example(seed)
    compare(prepared(name, weight, entries), name, embeddings, weight, labels, step=200)


@pytest.mark.parametrize("m1,m3", [(1.0, 0.0), (0.9, 0.15), (1.5, 0.1), (2.0, 0.0)])
def test_combined_multiplies_the_angle(m1, m3):
    embeddings, weight, labels = example()
    head = prepared("combined", weight)
    head.angle_factor, head.cosine_margin = m1, m3
    compare(head, "combined", embeddings, weight, labels, m1=m1, m3=m3)


@pytest.mark.parametrize("step,mix", [(0, 1000.0), (100, 1000 / 13), (10**6, 5.0)])
def test_sphereface_anneals(step, mix):
    embeddings, weight, labels = example()
    compare(prepared("sphereface", weight), "sphereface", embeddings, weight, labels, step)
    assert heads.annealing(step) == pytest.approx(mix)
    on_device = heads.annealing(torch.tensor(step))
    assert isinstance(on_device, torch.Tensor) and on_device.item() == pytest.approx(mix)
    head, batch = prepared("sphereface", weight), torch.tensor(embeddings, dtype=torch.float32)
    one, other = (head(batch, torch.from_numpy(labels), s) for s in (step, torch.tensor(step)))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("entries", [WHOLE, CHUNKED], ids=["whole", "chunks"])
@pytest.mark.parametrize("name", list(HEADS))
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_at_exactly_one_and_minus_one(name, sign, entries):
    """Embedding on its class vector, and opposite to it: the value of the formula, all gradients finite."""
    weight = np.eye(CLASSES, DIMENSIONS)
    labels = np.arange(CLASSES)
    embeddings = sign * 4.0 * weight
    head = prepared(name, weight, entries)
    cosine = (torch.from_numpy(embeddings / 4).float() @ head.weight.T).diagonal()
    assert (cosine == sign).all()
    losses, *gradients = computed(head, embeddings, labels, step=10**6)
    quality = qualities(embeddings, 3.0, 1.5) if name == "adaface" else None
    expected = reference_loss(name, embeddings, weight, labels, step=10**6, quality=quality)
    # the clipped sine moves the target by at most 0.001 sin(m), times s
    np.testing.assert_allclose(losses, expected, atol=0.04)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert np.abs(gradients[0]).max() < 64


@pytest.mark.parametrize("name", list(HEADS))
def test_the_target_grows_with_the_cosine_everywhere(name):
    """No angle where a worse match gives a better logit, and no slope pointing the wrong way, ends included."""
    head = prepared(name, np.eye(CLASSES, DIMENSIONS))
    cosine = torch.cat([torch.linspace(-1, 1, 20001), torch.tensor([1 - 6e-8, 6e-8 - 1])]).sort().values
    cosine = cosine[:, None].requires_grad_()
    for norm in (0.01, 3.0, 50.0):
        target = head.target(cosine, torch.full_like(cosine, norm), 10**6)
        (slope,) = torch.autograd.grad(target.sum(), cosine)
        assert torch.isfinite(slope).all() and slope.min() >= -1e-4
        assert target.diff(dim=0).min() > -2e-6
        assert slope[0] > 0.5, "the worst example is still pulled"


@pytest.mark.parametrize("name", ["arcface", "combined", "adaface"])
def test_beyond_pi_the_line_of_the_paper(name):
    head = prepared(name, np.eye(CLASSES, DIMENSIONS))
    norm = torch.full((1, 1), 1e-9)  # AdaFace: quality -0.67, so a positive angular margin
    m = {"arcface": 0.5, "combined": 0.3, "adaface": 0.4 * 0.333 * 2.999 / 1.501}[name]
    rest = {"arcface": 0.0, "combined": 0.2, "adaface": 0.4 - m}[name]
    for theta, value in [
        (math.pi - m - 0.01, math.cos(math.pi - 0.01)),
        (math.pi - m + 0.01, math.cos(math.pi - m + 0.01) - m * math.sin(m)),
    ]:
        target = head.target(torch.tensor([[math.cos(theta)]]), norm, 0)
        assert target.item() == pytest.approx(value - rest, abs=1e-5)


def test_adaface_averages_the_norms_of_training_batches():
    embeddings, weight, labels = example()
    embeddings[0] *= 1e6  # clipped to 100
    embeddings[1] *= 1e-9  # clipped to 0.001
    head = build_head("adaface", DIMENSIONS, CLASSES)
    assert (head.mean.item(), head.std.item()) == (20.0, 100.0)
    mean, std = 20.0, 100.0
    norms = np.linalg.norm(embeddings, axis=1).clip(0.001, 100)
    batch = torch.tensor(embeddings, dtype=torch.float32)
    for _ in range(3):
        head(batch, torch.from_numpy(labels))
        mean = 0.99 * mean + 0.01 * norms.mean()
        std = 0.99 * std + 0.01 * norms.std(ddof=1)
    assert head.mean.item() == pytest.approx(mean, rel=1e-5)
    assert head.std.item() == pytest.approx(std, rel=1e-5)
    assert {"mean", "std"} <= head.state_dict().keys()
    head.eval()(batch, torch.from_numpy(labels))
    assert head.mean.item() == pytest.approx(mean, rel=1e-5)
    head.train()(batch[:1], torch.from_numpy(labels[:1]))
    assert math.isfinite(head.std.item()), "a batch of one has no deviation"


def test_adaface_asks_more_of_better_pictures():
    """High norm: angular part negative, additive part large; low norm the reverse (figure 3 of the paper)."""
    head = prepared("adaface", np.eye(CLASSES, DIMENSIONS))
    head.std.fill_(0.1)
    cosine = torch.tensor([[0.5]])
    low, high = (head.target(cosine, torch.full((1, 1), norm), 0).item() for norm in (1.0, 5.0))
    theta = math.acos(0.5)
    assert high == pytest.approx(math.cos(theta - 0.4) - 0.8, abs=1e-5)
    assert low == pytest.approx(math.cos(theta + 0.4), abs=1e-5)


@pytest.mark.parametrize("name", list(HEADS))
def test_only_the_target_entry_carries_the_margin(name):
    embeddings, weight, labels = example()
    head = prepared(name, weight)
    batch = torch.tensor(embeddings, dtype=torch.float32)
    logits = head.logits(batch, torch.from_numpy(labels)).detach().numpy() / SCALES[name]
    cosines = embeddings @ weight.T / np.linalg.norm(weight, axis=1)
    cosines /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    others = np.ones_like(logits, dtype=bool)
    others[np.arange(len(labels)), labels] = False
    np.testing.assert_allclose(logits[others], cosines[others], atol=1e-6)
    shift = np.abs(logits - cosines)[~others]
    assert (shift.max() < 1e-6) == (name == "softmax")


@pytest.mark.parametrize("name", list(HEADS))
def test_float32_whatever_the_autocast_type(name):
    embeddings, weight, labels = example()
    head = prepared(name, weight)
    batch = torch.tensor(embeddings, dtype=torch.float32).bfloat16()  # as a backbone hands it over
    expected = head(batch.float(), torch.from_numpy(labels))
    with torch.autocast("cpu", torch.bfloat16):
        loss = head(batch, torch.from_numpy(labels))
    assert loss.dtype == torch.float32 and loss.shape == () and torch.equal(loss, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_takes_no_cosine_past_one(dtype):
    """Float products of a unit vector with itself come out above 1, where an angle would be NaN."""
    torch.manual_seed(0)
    head = build_head("sphereface", 512, 200)
    head.matmul_dtype = dtype
    directions = torch.nn.functional.normalize(head.weight.detach())
    rounded = directions.to(dtype).float()
    assert (rounded @ rounded.T).max() > 1, "the example shows the problem"
    assert head.cosines(directions).max() == 1 and head.cosines(-directions).min() == -1
    assert torch.isfinite(head(directions, torch.arange(200), 10**6))


@pytest.mark.parametrize("entries", [WHOLE, CHUNKED], ids=["whole", "chunks"])
def test_the_mean_is_the_mean(entries):
    embeddings, weight, labels = example()
    head, batch = prepared("arcface", weight, entries), torch.tensor(embeddings, dtype=torch.float32)
    each = head(batch, torch.from_numpy(labels), reduction="none")
    assert each.shape == (8,)
    torch.testing.assert_close(head(batch, torch.from_numpy(labels)), each.mean())


@pytest.mark.parametrize("name", list(HEADS))
def test_an_embedding_of_zero_has_bounded_gradients(name):
    _, weight, _ = example()
    losses, *gradients = computed(prepared(name, weight), np.zeros((2, DIMENSIONS)), np.array([0, 1]))
    assert np.isfinite(losses).all() and all(np.abs(gradient).max() < 1e6 for gradient in gradients)


def test_the_bfloat16_product_keeps_float32_sums():
    """Cosines within 1e-3 of the exact ones (a bfloat16 result: up to 2e-3 near 1), gradients within 3 %."""
    torch.manual_seed(0)
    head, exact = build_head("arcface", 512, 40), build_head("arcface", 512, 40)
    head.load_state_dict(exact.state_dict())
    head.matmul_dtype = torch.bfloat16
    labels = torch.arange(16)
    batch = exact.weight.detach()[:16] * 100 + 0.2 * torch.randn(16, 512)
    one, other = batch.clone().requires_grad_(), batch.clone().requires_grad_()
    (cosines, expected) = (h.cosines(torch.nn.functional.normalize(e)) for h, e in ((head, one), (exact, other)))
    error = (cosines - expected).abs().max().item()
    assert cosines.dtype == torch.float32 and 1e-7 < error < 1e-3
    assert expected.diagonal().min() > 0.9
    # gradients where there is something to learn: targets at about 80 degrees
    batch = torch.nn.functional.normalize(exact.weight.detach()[:16]) * 4 + torch.randn(16, 512)
    one, other = batch.clone().requires_grad_(), batch.clone().requires_grad_()
    head(one, labels).backward()
    exact(other, labels).backward()
    assert other.grad.norm() > 0.1, "not saturated"
    for rounded, full in ((one.grad, other.grad), (head.weight.grad, exact.weight.grad)):
        assert rounded.dtype == torch.float32
        assert 0 < (rounded - full).norm() < 0.03 * full.norm()
    head.matmul_dtype = torch.float16
    with pytest.raises(UsageError, match="matmul_dtype is torch.float16.*bfloat16"):
        head(one, labels)


@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-3)])
@pytest.mark.parametrize("classes,entries", [(50, 16 * 7), (49, 16 * 48), (64, 16 * 16)])
def test_chunks_change_nothing(classes, entries, dtype, tolerance):
    """The last chunk short, of a single class, whole. Gradients relative to their norm; bfloat16 rounds them alike."""
    torch.manual_seed(1)
    whole, chunked = build_head("arcface", 64, classes), build_head("arcface", 64, classes)
    chunked.load_state_dict(whole.state_dict())
    chunked.chunk_entries, whole.matmul_dtype, chunked.matmul_dtype = entries, dtype, dtype
    labels = torch.cat([torch.arange(8), torch.arange(classes - 8, classes)])
    batch = torch.nn.functional.normalize(whole.weight.detach()[labels]) * 8 + torch.randn(16, 64)
    one, other = batch.clone().requires_grad_(), batch.clone().requires_grad_()
    losses = whole(one, labels), chunked(other, labels)
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)
    for loss in losses:
        (3 * loss).backward()
    for expected, found in ((one.grad, other.grad), (whole.weight.grad, chunked.weight.grad)):
        assert (found - expected).norm() < tolerance * expected.norm()


def test_nothing_of_the_size_of_the_logits_is_kept():
    """What autograd saves for the backward pass: two matrices of the size of the embeddings, and vectors."""
    batch, classes, kept = 32, 4000, {}
    embeddings, labels = torch.randn(batch, 16, requires_grad=True), torch.arange(batch)

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for entries in (WHOLE, 32 * 500):
        head = build_head("arcface", 16, classes)
        head.chunk_entries = entries
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = head(embeddings, labels)
        saved = sum(kept.values()) - kept.pop(head.weight.data_ptr(), 0)
        if entries == WHOLE:
            assert saved > 2 * 4 * batch * classes, "the example shows the problem"
        else:
            assert saved < 8 * 4 * batch * 16
    loss.backward()
    assert torch.isfinite(embeddings.grad).all()


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(HEADS))
@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 1e-4), (torch.bfloat16, 0.5)])
def test_the_device_agrees(name, dtype, tolerance):
    embeddings, weight, labels = example()
    expected, by_embedding, _ = computed(prepared(name, weight), embeddings, labels)
    head = prepared(name, weight, CHUNKED).cuda()
    head.matmul_dtype = dtype
    batch = torch.tensor(embeddings, dtype=torch.float32, device="cuda", requires_grad=True)
    losses = head(batch, torch.from_numpy(labels).cuda(), reduction="none")
    losses.sum().backward()
    np.testing.assert_allclose(losses.detach().cpu().numpy(), expected, atol=tolerance, rtol=tolerance / 10)
    assert (batch.grad.cpu() - torch.from_numpy(by_embedding)).norm() < 0.05 * np.linalg.norm(by_embedding)


def test_defaults_are_the_papers():
    for name in HEADS:
        head = build_head(name, 4, 3)
        assert (head.scale, head.margin) == (SCALES[name], MARGINS[name])
        assert head.weight.shape == (3, 4)
    assert build_head("arcface", 4, 3, scale=30.0, margin=0.2).margin == 0.2
    assert build_head("arcface", 4, 3, scale=30.0, margin=0.0).scale == 30.0


@pytest.mark.parametrize(
    "name,options,message",
    [
        ("arc", {}, "'arc'.*arcface, cosface"),
        ("arcface", {"scale": 0.0}, "scale is 0.0.*positive"),
        ("arcface", {"scale": math.nan}, "scale is nan"),
        ("arcface", {"scale": math.inf}, "scale is inf"),
        ("arcface", {"margin": -0.1}, "ArcFace's margin is -0.1.*at least 0 and at most 1.5708"),
        ("arcface", {"margin": 2.0}, "ArcFace's margin is 2.0"),
        ("adaface", {"margin": 2.0}, "AdaFace's margin is 2.0"),
        ("combined", {"margin": math.nan}, "Combined's margin is nan"),
        ("cosface", {"margin": math.inf}, "CosFace's margin is inf.*finite"),
        ("sphereface", {"margin": 2.5}, "SphereFace's margin is 2.5.*whole number"),
        ("sphereface", {"margin": 0.0}, "SphereFace's margin is 0.0.*whole number"),
    ],
)
def test_values_out_of_range_are_named(name, options, message):
    with pytest.raises(UsageError, match=message):
        build_head(name, 4, 3, **options)


def test_one_class_is_refused():
    with pytest.raises(UsageError, match="1 identities.*at least 2"):
        build_head("arcface", 4, 1)


def test_every_head_is_a_setting():
    assert set(choices("head")) == set(HEADS)
