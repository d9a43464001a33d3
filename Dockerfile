# ICMP as one image: packages are installed in the first stage, the second holds what runs.
FROM python:3.11-slim AS packages
RUN python -m venv /venv
COPY requirements.txt .
RUN /venv/bin/pip install --no-cache-dir --disable-pip-version-check --requirement requirements.txt

FROM python:3.11-slim
RUN useradd --system --create-home --home-dir /home/icmp --shell /usr/sbin/nologin icmp
COPY --from=packages /venv /venv
WORKDIR /icmp
COPY app.py auth.py ./
COPY api api
COPY db db
COPY migrations migrations
COPY nlp nlp
COPY schemas schemas
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 BIND_HOST=0.0.0.0 DATA_DIR=/tmp
USER icmp
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ.get(\"PORT\", 8000)}/healthz', timeout=2)"]
CMD ["python", "app.py", "serve"]
