"""The long runs as one command, for a machine with a GPU that is lent for minutes at a time and reaches no network.

    make gpu-carry          # here: fills .gpu with wheels, MNIST, CIFAR-10 in two halves, and published weights
    make gpu                # there: some minutes of the plan; archives in $OUT, or in runs/gpu-paper/packed
    make gpu PRESET=smoke   # anywhere, without a GPU: the whole plan in two minutes

Given again, `make gpu` skips what is done and goes on with what was begun. There, a Python with JAX and a GPU is
enough: packages that it lacks are installed from .gpu/wheels, those that it has stay. Without CIFAR-10 one task fails,
the others go on. Put the archives of the last call into .gpu, and a fresh machine goes on from them. Where one call
carries less than .gpu holds, carry it in several, the last of them with `make gpu`. Start nothing beside it: processes
take turns on a GPU: on an H100 a generator learned from 250 images a second among twelve others, from 12,800 alone.
Under CUDA's Multi-Process Service (`nvidia-cuda-mps-control -d` first) they share it: all runs of `random_sign` came
out of thirteen processes in nine minutes of one H100.
"""
