"""Why does it not train? The signal in twenty layers, and what would mend it."""

import jax

import jaxinit

DEPTH, WIDTH = 20, 256


def apply(params, x):
    """Layers of ReLU: (batch, WIDTH) to the same."""
    for k in range(DEPTH):
        x = jax.nn.relu(x @ params[f"layer_{k}"])
    return x


def drawn(scheme, key):
    """Square kernels, each with its own key."""
    keys = jax.random.split(key, DEPTH)
    return {f"layer_{k}": scheme(keys[k], (WIDTH, WIDTH)) for k in range(DEPTH)}


params = drawn(jaxinit.glorot_normal(), jax.random.key(0))
x = jax.random.normal(jax.random.key(1), (64, WIDTH))

report = jaxinit.diagnose(apply, params, x)
print(report)
assert abs(report.forward.factor - 0.5**0.5) < 0.03  # a ReLU halves the mean square

# What the verdict says: its scheme keeps the signal.
mended = jaxinit.reinit(jax.random.key(2), params, jaxinit.he_normal(), apply, (x,))
print("\nDrawn anew:", jaxinit.diagnose(apply, mended, x).verdict)

# In a training script one line: it raises, with a sentence for each serious finding.
jaxinit.audit(apply, mended, x).raise_if_serious()
try:
    worse = drawn(jaxinit.normal(0.01), jax.random.key(0))
    jaxinit.audit(apply, worse, x).raise_if_serious()
except ValueError as error:
    print("\nOf deviation 0.01:", error)
else:
    raise SystemExit("an initialization of deviation 0.01 went through the audit")
