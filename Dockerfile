# The steps are the Makefile's. CPU by default; for an NVIDIA GPU, on a host with the container toolkit:
#   docker build -t s15erav3 .
#   docker build -t s15erav3-gpu --build-arg BASE=nvidia/cuda:13.0.1-base-ubuntu24.04 --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
#   mkdir -p runs && docker run --rm --user "$(id -u)" -v "$PWD/runs:/runs" s15erav3 train
#   docker run --rm --user "$(id -u)" --gpus all -v "$PWD/runs:/runs" s15erav3-gpu train trainer=gpu
ARG BASE=debian:trixie-slim
FROM ${BASE}

# g++ and Python's headers are for compile=true.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates g++ git make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/s15erav3
COPY . .

# PyPI's torch for Linux is a CUDA build; PyTorch's own index has one for each device.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=tokenizers,hf,cluster,optuna
RUN PIP_NO_CACHE_DIR=1 PIP_EXTRA_INDEX_URL="${TORCH_INDEX}" make setup EXTRAS="${EXTRAS}" LOCK=requirements.lock \
    && install -d -m 1777 /runs

# Any --user works: caches go to /tmp, and PyTorch asks for a name that such a user may not have.
ENV HOME=/tmp USER=researcher
USER 10001
WORKDIR /runs
ENTRYPOINT ["/opt/s15erav3/.venv/bin/s15erav3"]
CMD ["--help"]
