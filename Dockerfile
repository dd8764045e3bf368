# The service, its job hosts and the command line in one image; PyTorch for CPUs.
FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/onceforall
ENV PATH=/opt/onceforall/bin:$PATH
# From PyTorch's own index, because the wheels on PyPI bring 3 GB of CUDA. Before the sources, so that a change of these
# does not fetch it again. The bounds are those of pyproject.toml; a test compares them.
RUN pip install --index-url https://download.pytorch.org/whl/cpu "torch>=2.6,<2.15" "torchvision>=0.21"
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY supernet supernet
COPY latency_tables latency_tables
COPY search search
COPY pruning pruning
COPY service service
RUN pip install ".[onnx]"

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home onceforall && install --directory --owner=onceforall --mode=0750 /data
COPY --from=build /opt/onceforall /opt/onceforall
ENV PATH=/opt/onceforall/bin:$PATH \
    ONCEFORALL_DATA_DIR=/data \
    ONCEFORALL_HOST=0.0.0.0 \
    ONCEFORALL_LOG_FORMAT=json
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
# Alive, not ready: a container is not to be restarted because its database is away for a moment.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD ["onceforall", "serve"]
