# Producers and trainers on CPUs: the demo, rehearsals, whatever needs no GPU.
#   docker build -f deploy/containers/cpu.Dockerfile -t penstock:cpu .
FROM python:3.11.14-slim-bookworm AS build
# PyTorch's own index: its CPU wheels save gigabytes of CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/penstock
ENV PATH=/opt/penstock/bin:$PATH
WORKDIR /src
# What is installed from elsewhere changes seldom: a layer of its own.
COPY pyproject.toml constraints.txt deploy/containers/requirements.py ./
RUN python requirements.py pyproject.toml data > requirements.txt \
 && pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" -c constraints.txt -r requirements.txt
COPY . .
RUN pip install --no-cache-dir --no-deps .

FROM python:3.11.14-slim-bookworm
# A first process that passes signals on, so that producers drain, and that buries orphans.
# Its version is the base's to choose, whose archive keeps one at a time:
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends tini && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin penstock \
 && install -d -o penstock -g penstock -m 700 /keys /producer-key /runs
COPY --from=build /opt/penstock /opt/penstock
ENV PATH=/opt/penstock/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
USER 10001:10001
WORKDIR /runs
ENTRYPOINT ["tini", "--", "penstock"]
CMD ["--help"]
