"""The package `extes`: extes_train, data_gen, launch and the configs."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="extes",
    version="0.1.0",
    description="Distributed training of emotional-support chatbots, with data grown by a teacher model",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["extes_train", "extes_train.*", "data_gen", "data_gen.*", "launch", "launch.*"]),
    package_data={
        "extes_train": ["configs/**/*.yaml", "dialogue/taxonomies/*.yaml", "report/*.html", "report/*.css"],
        "data_gen": ["seeds/*", "prompts/*", "teacher/offline/banks/*"],
        "launch": ["**/*.sbatch"],
    },
    include_package_data=False,
    entry_points={"console_scripts": ["extes = launch.main:main"]},
    install_requires=[
        "torch>=2.6,<2.14",
        "deepspeed>=0.16",
        "transformers>=5.0",
        "peft>=0.18",
        "datasets>=4.0",
        "wandb>=0.20",
        "hydra-core>=1.3.5,<1.4",
        "safetensors",
        "accelerate",
        "numpy",
        "PyYAML",
        "aiohttp>=3.10",
        "datasketch",
        "sacrebleu>=2.4",
        "rouge-score",
        "nltk>=3.9",
        "rich",
        "tqdm",
        "ninja",
        "psutil",
        "setuptools",
    ],
    extras_require={
        "gpu": ["flash-attn", "liger-kernel", "bitsandbytes"],
        "ui": ["gradio"],
        "plots": ["matplotlib"],
        "pii": ["presidio-analyzer"],
        "embedding": ["sentence-transformers"],
        "bench": ["matplotlib", "openai"],
        "dev": ["pytest>=8", "pytest-xdist", "pytest-asyncio", "hypothesis", "ruff", "mypy", "types-PyYAML", "pre-commit", "build",
                "openai", "matplotlib"],
    },
)
