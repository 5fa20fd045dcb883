# Trainers on NVIDIA GPUs.
#   docker build -f deploy/containers/trainer.Dockerfile -t penstock-trainer:0.1.0 .
# NVIDIA's PyTorch of June 2026: torch 2.13, CUDA 13.3, NCCL. It wants a driver of R580 or newer.
FROM nvcr.io/nvidia/pytorch:26.06-py3
# A first process that passes signals on, so that producers drain, and that buries orphans.
# Its version is the base's to choose, whose archive keeps one at a time:
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends tini && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin penstock \
 && install -d -o penstock -g penstock -m 700 /keys /producer-key /runs
WORKDIR /src
COPY pyproject.toml constraints.txt deploy/containers/requirements.py deploy/containers/absent.py ./
# What NVIDIA has built together stays as it is: only what is absent is installed, at our versions.
RUN python requirements.py pyproject.toml data tracking nvml > requirements.txt \
 && python absent.py constraints.txt > absent.txt \
 && pip install --no-cache-dir -c absent.txt -r requirements.txt
COPY . .
RUN pip install --no-cache-dir --no-deps . && python -c 'import penstock.consumer.__main__'
ENV HOME=/tmp PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /runs
# Not NVIDIA's entry point, which greets with a page of text.
ENTRYPOINT ["tini", "--", "penstock"]
CMD ["--help"]
