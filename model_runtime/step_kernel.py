"""More entries of one history, compiled by Numba: what `model_runtime.sessions` runs where that is installed.

It computes what the graphs `video_step` and `comment_step` do, arranged alike (`offline_train.step_graphs` explains
it), on the same memory. Three things differ. Users lie in their memory, not in padded copies of it. Any number of
entries is appended at once; appended to nothing, that is what a window drop needs: its side is encoded from the
beginning while the other side keeps its states. And nothing is started but one function, where starting a graph's 150
operators costs more than what they do for one user.

Measured on the part that costs most, a cross layer's rows behind the attention (d = 64, f = 256), for one user's 42 and
for 2 700, in microseconds (AMD Zen 1, one thread, medians of 7): these functions 155 and 9 100, ONNX Runtime 196 and
9 900, NumPy 594 and 42 700. ONNX Runtime's fp16 (214 and 11 700) and int8 (211 and 10 400) are no faster on such a
processor, and off by 4e-3 and 0.4 where 1e-4 is promised of the whole.

All of it is in this file because Numba compiles again what is cached only when the function's own file changes.

Shapes: B users, n or N rows, d width, h heads, f feed-forward, L layers. Rows lie in one piece and are float32. Loops
over columns come innermost, so that the compiler makes vector instructions of them; BLAS is not called, for starting it
costs more than most of these products. `weights`, `places`, `memory` and `starts` are laid out by
`model_runtime.compiled`; names in capitals number their parts. Sides are numbered: video 0, comment 1.

Compiling takes half a minute: `python -m model_runtime.compiled`, or the first process on a machine that needs it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

# Numbers of weights and memory, typed: what is a constant to Numba gets a function of its own compiled for each value.
VIDEO, COMMENT = map(np.int64, (0, 1))
# Weights: a matrix or vector, and behind most the bias that belongs to it.
MIX = np.int64(0)
VIDEO_SIDE, COMMENT_SIDE = map(np.int64, (2, 6))
POSITION, START_NORM, NEWEST = map(np.int64, (0, 1, 3))  # within a side
POOLING, POOLING_NORM, POOLING_SCORE, FUSION, VIDEO_PRIOR, VIDEO_PROFILE = map(np.int64, (10, 12, 14, 16, 18, 19))
COMMENT_QUERY, COMMENT_THROUGH, COMMENT_OUT, COMMENT_NORM, COMMENT_PROFILE = map(np.int64, (20, 22, 24, 25, 27))
SCALE, LAYERS = map(np.int64, (28, 29))
QUERY, THROUGH, NORM1, UP, DOWN, NORM2, LAYER_SIZE = map(np.int64, (0, 2, 4, 6, 8, 10, 12))  # within a layer
OUT, CROSS_SIZE = map(np.int64, (12, 14))  # a cross layer has one more
# Memory: per side the layers' inputs, then these, ...
STATE, MEAN, LOG, MEMORY_SIDE = map(np.int64, (0, 1, 2, 3))
# ... and behind both sides
COMMENT_CROSS, POOLED, POOLED_LOG, VIDEO_RECENT, COMMENT_RECENT, VIDEO_PREFERENCE = map(np.int64, range(6))
#: rows that go through a feed-forward together: their hidden values stay in the processor's second cache
_CHUNK = 64

#: `nogil`: the event loop runs meanwhile
_INNER: dict[str, Any] = {"nogil": True, "fastmath": True, "error_model": "numpy", "no_cfunc_wrapper": True}
#: what is called from outside is compiled once on a machine, not at every start
_OUTER: dict[str, Any] = {**_INNER, "cache": True}

_EPSILON = np.float32(1e-8)
_ONE, _HALF = np.float32(1), np.float32(0.5)
_LOWEST, _NOTHING = np.float32(-3e38), np.float32(1e-24)
_ROOT_HALF = np.float32(math.sqrt(0.5))
#: erf(x) = x P(x^2) / Q(x^2) on [-4, 4], the coefficients that Eigen uses: within 3e-7
_FOUR = np.float32(4)
_P0, _P1, _P2, _P3, _P4, _P5, _P6 = (
    np.float32(c)
    for c in (
        -1.60960333262415e-02,
        -2.95459980854025e-03,
        -7.34990630326855e-04,
        -5.69250639462346e-05,
        -2.10102402082508e-06,
        2.77068142495902e-08,
        -2.72614225801306e-10,
    )
)
_Q0, _Q1, _Q2, _Q3, _Q4 = (
    np.float32(c)
    for c in (
        -1.42647390514189e-02,
        -7.37332916720468e-03,
        -1.68282697438203e-03,
        -2.13374055278905e-04,
        -1.45660718464996e-05,
    )
)


@njit(**_INNER)
def copy(to, numbers):  # type: ignore[no-untyped-def]
    """numbers [n] to the first n of `to` (an assignment of arrays takes seconds to compile, for its errors)."""
    for j in range(len(numbers)):
        to[j] = numbers[j]


@njit(**_INNER)
def add(to, numbers):  # type: ignore[no-untyped-def]
    for j in range(len(numbers)):
        to[j] += numbers[j]


@njit(**_INNER)
def copy_rows(to, rows):  # type: ignore[no-untyped-def]
    """rows [n, d] to the first n of `to`."""
    for i in range(len(rows)):
        copy(to[i], rows[i])


@njit(**_INNER)
def add_product(out, rows, weights):  # type: ignore[no-untyped-def]
    """out [n, m] += rows [n, k] @ weights [k, m]."""
    # Four rows and four terms at a time: each weight that is loaded serves four rows, each sum is stored once for four.
    n, k = rows.shape
    m = weights.shape[1]
    whole, most = n // 4 * 4, k // 4 * 4
    for i in range(0, whole, 4):
        x0, x1, x2, x3 = rows[i], rows[i + 1], rows[i + 2], rows[i + 3]
        y0, y1, y2, y3 = out[i], out[i + 1], out[i + 2], out[i + 3]
        for p in range(0, most, 4):
            w0, w1, w2, w3 = weights[p], weights[p + 1], weights[p + 2], weights[p + 3]
            a0, a1, a2, a3 = x0[p], x0[p + 1], x0[p + 2], x0[p + 3]
            b0, b1, b2, b3 = x1[p], x1[p + 1], x1[p + 2], x1[p + 3]
            c0, c1, c2, c3 = x2[p], x2[p + 1], x2[p + 2], x2[p + 3]
            d0, d1, d2, d3 = x3[p], x3[p + 1], x3[p + 2], x3[p + 3]
            for j in range(m):
                v0, v1, v2, v3 = w0[j], w1[j], w2[j], w3[j]
                y0[j] += a0 * v0 + a1 * v1 + a2 * v2 + a3 * v3
                y1[j] += b0 * v0 + b1 * v1 + b2 * v2 + b3 * v3
                y2[j] += c0 * v0 + c1 * v1 + c2 * v2 + c3 * v3
                y3[j] += d0 * v0 + d1 * v1 + d2 * v2 + d3 * v3
    for i in range(whole, n):
        x0, y0 = rows[i], out[i]
        for p in range(0, most, 4):
            w0, w1, w2, w3 = weights[p], weights[p + 1], weights[p + 2], weights[p + 3]
            a0, a1, a2, a3 = x0[p], x0[p + 1], x0[p + 2], x0[p + 3]
            for j in range(m):
                y0[j] += a0 * w0[j] + a1 * w1[j] + a2 * w2[j] + a3 * w3[j]
    for i in range(n):
        for p in range(most, k):
            for j in range(m):
                out[i, j] += rows[i, p] * weights[p, j]


@njit(**_INNER)
def product(rows, weights, bias):  # type: ignore[no-untyped-def]
    """rows [n, k] @ weights [k, m] + bias [m] -> [n, m]."""
    out = np.empty((len(rows), weights.shape[1]), np.float32)
    for i in range(len(rows)):
        copy(out[i], bias)
    add_product(out, rows, weights)
    return out


@njit(**_INNER)
def normalise(rows, scale, bias):  # type: ignore[no-untyped-def]
    """Layer norm of each row [d], in place."""
    d = rows.shape[1]
    share = _ONE / np.float32(d)
    for i in range(len(rows)):
        x = rows[i]
        mean = np.float32(0)
        for j in range(d):
            mean += x[j]
        mean *= share
        square = np.float32(0)
        for j in range(d):
            square += (x[j] - mean) * (x[j] - mean)
        factor = _ONE / math.sqrt(square * share + _EPSILON)
        for j in range(d):
            x[j] = (x[j] - mean) * factor * scale[j] + bias[j]


@njit(**_INNER)
def gelu(rows):  # type: ignore[no-untyped-def]
    """x (1 + erf(x / sqrt 2)) / 2, in place."""
    for i in range(len(rows)):
        x = rows[i]
        for j in range(len(x)):
            t = min(max(x[j] * _ROOT_HALF, -_FOUR), _FOUR)
            s = t * t
            p = ((((((_P6 * s + _P5) * s + _P4) * s + _P3) * s + _P2) * s) + _P1) * s + _P0
            q = (((_Q4 * s + _Q3) * s + _Q2) * s + _Q1) * s + _Q0
            x[j] = _HALF * x[j] * (_ONE + t * p / q)


@njit(**_INNER)
def dot(x, y):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for j in range(len(x)):
        total += x[j] * y[j]
    return total


@njit(**_INNER)
def attend(query, memory, mean, log, scores):  # type: ignore[no-untyped-def]
    """query [h, d] over memory [n, d] with n >= 1: mean [h, d] under the softmax, log [h] of its denominator."""
    heads, d = query.shape
    n = len(memory)
    for h in range(heads):
        top = _LOWEST
        for i in range(n):
            scores[i] = dot(query[h], memory[i])
            top = max(top, scores[i])
        total = np.float32(0)
        for i in range(n):
            scores[i] = math.exp(scores[i] - top)
            total += scores[i]
        y = mean[h]
        for j in range(d):
            y[j] = np.float32(0)
        for i in range(n):
            x, weight = memory[i], scores[i] / total
            for j in range(d):
                y[j] += weight * x[j]
        log[h] = top + math.log(total)


@njit(**_INNER)
def see_more_keys(states, means, logs, keys, same, values, before):  # type: ignore[no-untyped-def]
    """Cross rows' means [n, d] and log denominators [h, n or more], in place, after r more keys.

    states [n, d] of the rows; keys [r, h, d] and same [r, h] in the states' space; values [r, d]. `before`: whether
    the rows saw any key before these.
    """
    heads = keys.shape[1]
    part = means.shape[1] // heads
    more = len(keys)
    if more == 0:
        if not before:
            for i in range(len(states)):
                for j in range(means.shape[1]):
                    means[i, j] = np.float32(0)
        return
    weights = np.empty(more, np.float32)
    for i in range(len(states)):
        for h in range(heads):
            top = logs[h, i] if before else _LOWEST
            for r in range(more):
                weights[r] = dot(keys[r, h], states[i]) + same[r, h]
                top = max(top, weights[r])
            kept = math.exp(logs[h, i] - top) if before else np.float32(0)
            total = kept
            for r in range(more):
                weights[r] = math.exp(weights[r] - top)
                total += weights[r]
            logs[h, i] = top + math.log(total)
            mean = means[i, h * part : (h + 1) * part]
            kept /= total
            for j in range(part):
                mean[j] *= kept
            for r in range(more):
                weight, value = weights[r] / total, values[r, h * part : (h + 1) * part]
                for j in range(part):
                    mean[j] += weight * value[j]


@njit(**_INNER)
def vector(flat, places, number):  # type: ignore[no-untyped-def]
    """A part of what lies in one piece."""
    return flat[places[number] : places[number + 1]]


@njit(**_INNER)
def matrix(flat, places, number, width):  # type: ignore[no-untyped-def]
    """The same as rows of so many columns."""
    part = flat[places[number] : places[number + 1]]
    return part.reshape(len(part) // width, width)


@njit(**_INNER)
def linear(rows, weights, places, number):  # type: ignore[no-untyped-def]
    """rows [n, k] through matrix `number` and the bias behind it."""
    bias = vector(weights, places, number + 1)
    return product(rows, matrix(weights, places, number, len(bias)), bias)


@njit(**_INNER)
def norm(rows, weights, places, number):  # type: ignore[no-untyped-def]
    normalise(rows, vector(weights, places, number), vector(weights, places, number + 1))


@njit(**_INNER)
def feed_forward(out, rows, attended, weights, places, layer):  # type: ignore[no-untyped-def]
    """The rest of a layer after its attention: rows [n, d] and what they attended [n, d] -> out [n, d]."""
    d = rows.shape[1]
    up_bias, down_bias = vector(weights, places, layer + UP + 1), vector(weights, places, layer + DOWN + 1)
    f = len(up_bias)
    up, down = matrix(weights, places, layer + UP, f), matrix(weights, places, layer + DOWN, d)
    hidden = np.empty((min(len(rows), _CHUNK), f), np.float32)
    for begin in range(0, len(rows), _CHUNK):
        y = out[begin : begin + _CHUNK]
        for i in range(len(y)):
            for j in range(d):
                y[i, j] = rows[begin + i, j] + attended[begin + i, j]
        norm(y, weights, places, layer + NORM1)
        inner = hidden[: len(y)]
        for i in range(len(y)):
            copy(inner[i], up_bias)
        add_product(inner, y, up)
        gelu(inner)
        for i in range(len(y)):
            for j in range(d):
                y[i, j] += down_bias[j]
        add_product(y, inner, down)
        norm(y, weights, places, layer + NORM2)


@njit(**_INNER)
def own_layers(own, x, memory, starts, weights, places, shape, slots, begins, counts):  # type: ignore[no-untyped-def]
    """New entries x [N, d] through the causal layers of their side -> states [N, d]; memory gets what layers read."""
    d, heads, layers, _ = shape
    window = (starts[1] - starts[0]) // d
    scores, log = np.empty(window, np.float32), np.empty(heads, np.float32)
    first_layer = LAYERS + own * (layers * LAYER_SIZE + CROSS_SIZE)
    mean = np.empty((len(x), heads, d), np.float32)
    for number in range(layers + 1):
        field = own * (layers + MEMORY_SIDE) + number  # behind the layers' inputs comes the state
        row = 0
        for user in range(len(slots)):
            kept = matrix(memory[slots[user]], starts, field, d)
            for at in range(begins[user], begins[user] + counts[user]):
                copy(kept[at], x[row])
                row += 1
        if number == layers:
            break
        layer = first_layer + number * LAYER_SIZE
        query = linear(x, weights, places, layer + QUERY).reshape(len(x), heads, d)
        row = 0
        for user in range(len(slots)):
            kept = matrix(memory[slots[user]], starts, field, d)
            for at in range(begins[user], begins[user] + counts[user]):
                attend(query[row], kept[: at + 1], mean[row], log, scores)
                row += 1
        attended = linear(mean.reshape(len(x), heads * d), weights, places, layer + THROUGH)
        y = np.empty_like(x)
        feed_forward(y, x, attended, weights, places, layer)
        x = y
    return x


@njit(**_INNER)
def look_across(own, state, memory, starts, weights, places, shape, slots, begins, counts, others):  # type: ignore[no-untyped-def]
    """New states [N, d] over the other side's, which sees them too.

    Returns the new entries' cross rows [N, d]; the other side's means and logs are brought up to date.
    """
    d, heads, layers, _ = shape
    layer = LAYERS + own * (layers * LAYER_SIZE + CROSS_SIZE) + layers * LAYER_SIZE
    own_field = own * (layers + MEMORY_SIDE) + layers
    other_field = (1 - own) * (layers + MEMORY_SIDE) + layers
    n = len(state)
    window = (starts[1] - starts[0]) // d
    scores = np.empty(window, np.float32)
    wide = heads * d
    # In one product: what a new row asks of the other side, and what it is as a key and a value to it.
    products = linear(state, weights, places, layer + QUERY)
    asked = np.empty((n, heads, d), np.float32)
    keys, same, values = np.empty((n, heads, d), np.float32), np.empty((n, heads), np.float32), np.empty_like(state)
    for i in range(n):
        found = products[i]
        for h in range(heads):
            copy(asked[i, h], found[h * d : (h + 1) * d])
            copy(keys[i, h], found[wide + heads + h * d : wide + heads + (h + 1) * d])
        copy(same[i], found[2 * wide + heads : 2 * wide + 2 * heads])
        copy(values[i], found[2 * wide + 2 * heads :])
    mean, log = np.zeros((n, heads, d), np.float32), np.zeros((n, heads), np.float32)
    row = 0
    for user in range(len(slots)):
        kept = memory[slots[user]]
        states = matrix(kept, starts, other_field + STATE, d)[: others[user]]
        more = slice(row, row + counts[user])
        if others[user] > 0:
            for i in range(row, row + counts[user]):
                attend(asked[i], states, mean[i], log[i], scores)
            see_more_keys(
                states,
                matrix(kept, starts, other_field + MEAN, d),
                matrix(kept, starts, other_field + LOG, window),
                keys[more],
                same[more],
                values[more],
                begins[user] > 0,
            )
        row += counts[user]
    mean_value = linear(mean.reshape(n, wide), weights, places, layer + THROUGH)
    row = 0
    for user in range(len(slots)):
        kept = memory[slots[user]]
        means, logs = matrix(kept, starts, own_field + MEAN, d), matrix(kept, starts, own_field + LOG, window)
        for at in range(begins[user], begins[user] + counts[user]):
            if others[user] == 0:
                mean_value[row] = np.float32(0)
            copy(means[at], mean_value[row])
            for h in range(heads):
                logs[h, at] = log[row, h] + products[row, wide + h]
            row += 1
    crosses = np.empty_like(state)
    feed_forward(crosses, state, linear(mean_value, weights, places, layer + OUT), weights, places, layer)
    return crosses


@njit(**_INNER)
def other_crosses(own, kept, starts, weights, places, shape, count):  # type: ignore[no-untyped-def]
    """A user's cross rows of the other side, [count, d], from the means that are kept."""
    d, _, layers, _ = shape
    other = 1 - own
    layer = LAYERS + other * (layers * LAYER_SIZE + CROSS_SIZE) + layers * LAYER_SIZE
    field = other * (layers + MEMORY_SIDE) + layers
    states, means = matrix(kept, starts, field + STATE, d)[:count], matrix(kept, starts, field + MEAN, d)[:count]
    crosses = np.empty((count, d), np.float32)
    feed_forward(crosses, states, linear(means, weights, places, layer + OUT), weights, places, layer)
    return crosses


@njit(**_INNER)
def pool(pooled, pooled_log, states, crosses, weights, places, before):  # type: ignore[no-untyped-def]
    """More video rows, states and crosses [n, d], into the pooled [2 d] and its log denominator [1], in place."""
    n, d = states.shape
    both = np.empty((n, 2 * d), np.float32)
    for i in range(n):
        copy(both[i, :d], states[i])
        copy(both[i, d:], crosses[i])
    y = linear(both, weights, places, POOLING)
    norm(y, weights, places, POOLING_NORM)
    gelu(y)
    score, offset = vector(weights, places, POOLING_SCORE), vector(weights, places, POOLING_SCORE + 1)[0]
    logits = np.empty(n, np.float32)
    top = pooled_log[0] if before else _LOWEST
    for i in range(n):
        logits[i] = dot(y[i], score) + offset
        top = max(top, logits[i])
    total = math.exp(pooled_log[0] - top) if before else np.float32(0)
    for j in range(2 * d):
        pooled[j] = pooled[j] * total if before else np.float32(0)
    for i in range(n):
        weight = math.exp(logits[i] - top)
        total += weight
        row = both[i]
        for j in range(2 * d):
            pooled[j] += weight * row[j]
    for j in range(2 * d):
        pooled[j] /= total
    pooled_log[0] = top + math.log(total)


@njit(**_INNER)
def unit(out, x, profile, recent, length):  # type: ignore[no-untyped-def]
    """x + profile * recent at `length`; zeros stay zeros."""
    square = np.float32(0)
    for j in range(len(x)):
        out[j] = x[j] + profile * recent[j]
        square += out[j] * out[j]
    factor = length / math.sqrt(square) if square > _NOTHING else np.float32(0)
    for j in range(len(x)):
        out[j] *= factor


@njit(**_INNER)
def video_preferences(memory, starts, weights, places, shape, slots, videos):  # type: ignore[no-untyped-def]
    """From what is pooled of users with so many videos, into their memory."""
    d, _, layers, _ = shape
    last = 2 * (layers + MEMORY_SIDE)
    pooled = np.empty((len(slots), 2 * d), np.float32)
    for user in range(len(slots)):
        copy(pooled[user], vector(memory[slots[user]], starts, last + POOLED))
    fused = linear(pooled, weights, places, FUSION)
    prior, profile = vector(weights, places, VIDEO_PRIOR), vector(weights, places, VIDEO_PROFILE)[0]
    length = vector(weights, places, SCALE)[0]
    for user in range(len(slots)):
        kept = memory[slots[user]]
        x = fused[user]
        for j in range(d):
            x[j] = prior[j] + (x[j] if videos[user] > 0 else np.float32(0))
        unit(
            vector(kept, starts, last + VIDEO_PREFERENCE), x, profile, vector(kept, starts, last + VIDEO_RECENT), length
        )


@njit(**_INNER)
def comment_preferences(out, at, query, memory, starts, weights, places, shape, slots, comments):  # type: ignore[no-untyped-def]
    """For the videos that `query` [B, d] stands for, of users with so many comment records, to out[at]."""
    d, heads, layers, _ = shape
    field, last = layers + MEMORY_SIDE + layers, 2 * (layers + MEMORY_SIDE)
    window = (starts[1] - starts[0]) // d
    scores = np.empty(window, np.float32)
    absorbed = linear(query, weights, places, COMMENT_QUERY).reshape(len(slots), 2, heads, d)
    means = np.zeros((len(slots), heads, 2, d), np.float32)
    for user in range(len(slots)):
        n = comments[user]
        if n == 0:
            continue
        kept = memory[slots[user]]
        states = matrix(kept, starts, field + STATE, d)
        crosses = matrix(kept, starts, last + COMMENT_CROSS, d)
        for h in range(heads):
            top = _LOWEST
            for i in range(n):
                scores[i] = dot(absorbed[user, 0, h], states[i]) + dot(absorbed[user, 1, h], crosses[i])
                top = max(top, scores[i])
            total = np.float32(0)
            for i in range(n):
                scores[i] = math.exp(scores[i] - top)
                total += scores[i]
            on_state, on_cross = means[user, h, 0], means[user, h, 1]
            for i in range(n):
                weight, state, cross = scores[i] / total, states[i], crosses[i]
                for j in range(d):
                    on_state[j] += weight * state[j]
                    on_cross[j] += weight * cross[j]
    attended = linear(means.reshape(len(slots), heads * 2 * d), weights, places, COMMENT_THROUGH)
    bias = vector(weights, places, COMMENT_OUT)
    for user in range(len(slots)):
        for j in range(d):
            own = attended[user, j] if comments[user] > 0 else np.float32(0)
            attended[user, j] = query[user, j] + own + bias[j]
    norm(attended, weights, places, COMMENT_NORM)
    profile, length = vector(weights, places, COMMENT_PROFILE)[0], vector(weights, places, SCALE)[0]
    for user in range(len(slots)):
        recent = vector(memory[slots[user]], starts, last + COMMENT_RECENT)
        unit(out[at[user]], attended[user], profile, recent, length)


@njit(**_INNER)
def read(out, row, base, late):  # type: ignore[no-untyped-def]
    """Add vector `row` of a table to out [d]: rows of `base`, then of `late`; nothing for -1."""
    if row >= len(base):
        add(out, late[row - len(base)])
    elif row >= 0:
        add(out, base[row])


@njit(**_INNER)
def queries(current, at, tables):  # type: ignore[no-untyped-def]
    """[B, d] of the videos that users are on, from their rows current[at]."""
    out = np.zeros((len(at), tables[0].shape[1]), np.float32)
    for user in range(len(at)):
        read(out[user], current[at[user]], tables[0], tables[1])
        read(out[user], current[at[user]], tables[2], tables[3])
    return out


@njit(**_INNER)
def collect(out, rows, memory, starts, shape, slots, at):  # type: ignore[no-untyped-def]
    """Users' video preferences, and the rows behind their histories, to where they are wanted."""
    preferences, _, histories = out
    _, _, layers, _ = shape
    wide = min(histories.shape[2], rows.shape[2])
    for user in range(len(slots)):
        preference = vector(memory[slots[user]], starts, 2 * (layers + MEMORY_SIDE) + VIDEO_PREFERENCE)
        copy(preferences[at[user]], preference)
        for kind in range(3):
            copy(histories[kind, at[user]], rows[slots[user], kind, :wide])


@njit(**_OUTER)
def query(current, tables, out, rows, memory, starts, weights, places, shape, users):  # type: ignore[no-untyped-def]
    """Answer users for whom nothing came but, perhaps, another current video.

    As `append`, but users: [3, B] slots in memory, comment records that they have, places in `current` and `out`.
    """
    slots, comments, at = users
    asked = queries(current, at, tables)
    comment_preferences(out[1], at, asked, memory, starts, weights, places, shape, slots, comments)
    collect(out, rows, memory, starts, shape, slots, at)


@njit(**_INNER)
def remember(rows, own, begin, entries):  # type: ignore[no-untyped-def]
    """The rows [3, W] of a user whose side `own` has entries [2, n] from position `begin` on, and then ends."""
    for kind in range(1 + own):
        for at in range(begin, rows.shape[1]):
            rows[own + kind, at] = entries[kind, at - begin] if at < begin + entries.shape[1] else -1


@njit(**_OUTER)
def append(own, half, entries, current, tables, out, rows, memory, starts, weights, places, shape, users):  # type: ignore[no-untyped-def]
    """Append entries to side `own` of some users, or begin that side again; both preferences follow.

    Args:
        own: the side, VIDEO or COMMENT.
        half: the other side begins again next, with at least one entry: what it will change is not computed now.
        entries: [2, N] rows of the entries' videos, and of their comments (on the video side of the videos again);
            users one after another, oldest first.
        current: rows of the videos that users are on.
        tables: of id, title, and comment vectors, each [n, d] and what came later [m, d].
        out: where video [., d] and comment preferences [., d] go, and the rows behind histories [3, ., n].
        rows: [slots, 3, W] what histories are made of: videos, comments' videos, comments.
        memory: [slots, floats], `starts` of its parts.
        weights: all of them, `places` of each.
        shape: d, h, L, f.
        users: [5, B] slots in memory; entries that they have on this side (0: it begins, whatever memory holds of it);
            entries that come; entries that they have on the other side; places in `current` and `out`.
    """
    d, _, layers, _ = shape
    slots, begins, counts, others, at_out = users
    last = 2 * (layers + MEMORY_SIDE)
    side = VIDEO_SIDE if own == VIDEO else COMMENT_SIDE
    n = entries.shape[1]
    texts, ids = np.zeros((n, 2, d), np.float32), np.zeros((n, d), np.float32)
    for i in range(n):
        read(ids[i], entries[0, i], tables[0], tables[1])
        read(texts[i, 0], entries[0, i], tables[2], tables[3])
        read(texts[i, 1], entries[1, i], tables[4], tables[5])
    content = linear(texts.reshape(n, 2 * d), weights, places, MIX)
    x = np.empty_like(ids)
    position, newest = matrix(weights, places, side + POSITION, d), vector(weights, places, side + NEWEST)
    row = 0
    for user in range(len(slots)):
        kept = memory[slots[user]]
        recent = vector(kept, starts, last + (VIDEO_RECENT if own == VIDEO else COMMENT_RECENT))
        theirs = vector(kept, starts, last + (COMMENT_RECENT if own == VIDEO else VIDEO_RECENT))
        for j in range(d):  # the mean of nothing
            recent[j] = recent[j] if begins[user] > 0 else np.float32(0)
            theirs[j] = theirs[j] if others[user] > 0 else np.float32(0)
        remember(rows[slots[user]], own, begins[user], entries[:, row : row + counts[user]])
        for at in range(begins[user], begins[user] + counts[user]):
            for j in range(d):
                content[row, j] += ids[row, j]
                x[row, j] = content[row, j] + position[at, j]
                entry = content[row, j] if own == VIDEO else texts[row, 1, j]
                recent[j] = recent[j] + newest[at] * (entry - recent[j]) if at > 0 else entry
            row += 1
    norm(x, weights, places, side + START_NORM)
    state = own_layers(own, x, memory, starts, weights, places, shape, slots, begins, counts)
    if half:
        return
    crosses = look_across(own, state, memory, starts, weights, places, shape, slots, begins, counts, others)
    row = 0
    for user in range(len(slots)):
        kept = memory[slots[user]]
        comment_cross = matrix(kept, starts, last + COMMENT_CROSS, d)
        pooled, pooled_log = vector(kept, starts, last + POOLED), vector(kept, starts, last + POOLED_LOG)
        end = row + counts[user]
        their_crosses = other_crosses(own, kept, starts, weights, places, shape, others[user])
        if own == VIDEO:
            if counts[user] > 0:
                pool(pooled, pooled_log, state[row:end], crosses[row:end], weights, places, begins[user] > 0)
            copy_rows(comment_cross, their_crosses)
        else:
            copy_rows(comment_cross[begins[user] :], crosses[row:end])
            if others[user] > 0:
                states = matrix(kept, starts, layers, d)[: others[user]]
                pool(pooled, pooled_log, states, their_crosses, weights, places, others[user] == 0)
        row = end
    own_lengths = begins + counts
    videos, comments = (own_lengths, others) if own == VIDEO else (others, own_lengths)
    video_preferences(memory, starts, weights, places, shape, slots, videos)
    asked = queries(current, at_out, tables)
    comment_preferences(out[1], at_out, asked, memory, starts, weights, places, shape, slots, comments)
    collect(out, rows, memory, starts, shape, slots, at_out)


def load() -> None:
    """Load the compiled functions, or compile them, by calling them for nobody."""
    d = 4
    weights, memory, table = np.zeros(2048, np.float32), np.zeros((1, 2048), np.float32), np.zeros((1, d), np.float32)
    table.flags.writeable = False
    bounds = np.arange(128) * 4 * d  # any will do
    out = np.zeros((0, d), np.float32), np.zeros((0, d), np.float32), np.zeros((3, 0, 1), np.int32)
    rows, current, tables = np.zeros((1, 3, 1), np.int32), np.zeros(0, np.int64), (table,) * 6
    model = memory, bounds, weights, bounds, (d, 1, 1, d)
    for side in (VIDEO, COMMENT):
        append(side, False, np.zeros((2, 0), np.int64), current, tables, out, rows, *model, np.zeros((5, 0), np.int64))
    query(current, tables, out, rows, *model, np.zeros((3, 0), np.int64))
