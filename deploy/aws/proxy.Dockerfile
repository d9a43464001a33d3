# The proxy of a task on AWS: `docker build --file deploy/aws/proxy.Dockerfile --tag icmp-proxy .`
FROM nginxinc/nginx-unprivileged:1.28.0-alpine
COPY deploy/nginx /etc/nginx/icmp
COPY deploy/aws/nginx.conf /etc/nginx/nginx.conf
EXPOSE 8080
