# syntax=docker/dockerfile:1
#
#   docker build -t headstart:cpu .                    (the default target)
#   docker build -t headstart:cuda --target cuda .     (needs the NVIDIA Container Toolkit to run on a GPU)
#
# It listens on every address of its container, so it wants an API key before it starts:
#
#   docker run --rm -v headstart:/var/lib/headstart headstart:cpu keys create --tenant NAME
#   docker run -p 127.0.0.1:8000:8000 -v headstart:/var/lib/headstart headstart:cpu

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# ---- dependencies: rebuilt only when pyproject.toml or constraints.txt change ----

FROM ${PYTHON_IMAGE} AS requirements
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY pyproject.toml constraints.txt ./
RUN pip install --constraint constraints.txt "setuptools>=77" wheel \
    && python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *p['optional-dependencies']['otel'], sep='\n')" \
    > requirements.txt

FROM requirements AS dependencies-cpu
RUN pip install --constraint constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu \
    --requirement requirements.txt

FROM requirements AS dependencies-cuda
RUN pip install --constraint constraints.txt --requirement requirements.txt

# ---- what both images share ----

FROM ${PYTHON_IMAGE} AS runtime
RUN useradd --system --uid 10001 --user-group --create-home --home-dir /var/lib/headstart headstart
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/var/lib/headstart/hub \
    HEADSTART_HOST=0.0.0.0 \
    HEADSTART_PORT=8000 \
    HEADSTART_DATA_DIR=/var/lib/headstart/data
WORKDIR /app
VOLUME /var/lib/headstart
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['HEADSTART_PORT'] + '/readyz', timeout=4)"]
ENTRYPOINT ["headstart"]
CMD ["serve"]

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=dependencies-cuda /opt/venv /opt/venv
COPY . /app
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable /app
USER headstart

FROM runtime AS cpu
COPY --from=dependencies-cpu /opt/venv /opt/venv
COPY . /app
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable /app
USER headstart
