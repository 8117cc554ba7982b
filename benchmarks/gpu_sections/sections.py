"""The sections in the order of their worth: what is done, in how many jobs, for how long at most."""

from dataclasses import dataclass

# One of each class and nnU-Net's two, as ``networks.ONE_OF_EACH`` has them, the most wanted first.
NETWORKS = (
    *("SegMamba", "MedSegMamba", "U-Mamba Enc", "U-Mamba2", "MSD-KMamba", "U-Mamba Bot"),
    *("PlainConvUNet", "ResEnc M"),
)
WITHOUT_MAMBA = ("SegMamba, no Mamba", "MedSegMamba, no Mamba")  # ``networks.OURS``
# Jobs of "compilation": which backend CUDA tensors get, and whether Mamba-2's Triton kernels pass their check.
BACKEND, SSD_BACKEND = "backend", "backend of Mamba-2"


@dataclass(frozen=True)
class Section:
    """A part of the suite.

    Attributes:
        name: of its module here.
        title: its heading.
        seconds: after which it is ended.
        jobs: each is done in a process of its own, several at a time.
        gib: GPU memory that a job may need: how many run at a time.
        stopped_by: jobs without which the rest is not worth the time.
    """

    name: str
    title: str
    seconds: float
    jobs: tuple[str, ...] = ("all",)
    gib: float = 4.0
    stopped_by: tuple[str, ...] = ()


def all_sections(workers: int) -> tuple[Section, ...]:
    """Return all sections, kernels compiled by as many processes as ``workers`` says."""
    compiling = tuple(f"{number + 1} of {workers}" for number in range(workers))
    return (
        # A fresh machine's first import of torch reads gigabytes from its disk; ended here, nothing else would run.
        Section("environment", "What is needed", 120, stopped_by=("all",)),
        Section("compilation", "Compiling the kernels", 120, (BACKEND, SSD_BACKEND, *compiling), 6.0, (BACKEND,)),
        Section(
            "correctness",
            "Every kernel against fp64",
            75,
            ("scan, fp32", "scan, fp16", "scan, bf16", "convolution", "mamba2", "repeatability"),
            8.0,
        ),
        Section("speed", "Scan and convolution: speed", 60),
        Section("rival", "mamba_ssm's kernel beside ours", 40),
        Section("training", "A training step and a prediction", 100, (*NETWORKS, *WITHOUT_MAMBA), 16.0),
        Section("compiled_training", "A training step under torch.compile", 150, NETWORKS, 16.0),
        Section("whole_scan", "MedSegMamba on a whole scan", 60),
        Section("kernel_profile", "SegMamba's training step by kernel", 40),
        Section("device_tests", "tests/gpu", 120),
    )
