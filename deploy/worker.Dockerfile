# The worker, for CPU or CUDA as TORCH_INDEX_URL says. Built from the repository root by docker-compose.yml.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
# Where torch comes from: https://download.pytorch.org/whl/cpu, or https://pypi.org/simple for the CUDA build.
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
WORKDIR /src
RUN python -m venv --without-pip /opt/qllm/venv
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY protos protos
COPY client client
COPY scheduler_svc scheduler_svc
COPY gpu_worker gpu_worker
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip --python /opt/qllm/venv/bin/python install --extra-index-url "${TORCH_INDEX_URL}" \
    -c constraints.txt ".[worker]"

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="qllm-worker" \
  org.opencontainers.image.description="QLLM's worker: runs a Mixture-of-Experts model as the scheduler tells it to" \
  org.opencontainers.image.licenses="Apache-2.0"
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore pip setuptools wheel \
    && groupadd --gid 10001 qllm \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin qllm \
    && install --directory --owner=10001 --group=10001 --mode=0700 /run/qllm \
    && install --directory --owner=10001 --group=10001 --mode=0755 /models
COPY --from=build /opt/qllm /opt/qllm
COPY demo/model /opt/qllm/demo-model
# Nothing is downloaded while it serves; caches that libraries insist on go to the tmpfs.
ENV PATH=/opt/qllm/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=8589934592:glibc.malloc.top_pad=67108864 \
    HF_HOME=/tmp/huggingface \
    HF_HUB_OFFLINE=1
USER 10001:10001
CMD ["qllm-worker", "--help"]
