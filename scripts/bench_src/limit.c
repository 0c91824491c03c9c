// limit.c - the least that a CONNECT proxy does: epoll, splice, one thread; no token, no policy, no log, no timeouts (loopback only).
// usage: limit 0   -> prints its port. CONNECT 127.0.0.1:PORT is tunnelled, everything else gets a 403.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#define PIPE (1<<20)
#define SMALL 16384
static const char OK[]="HTTP/1.1 200 OK\r\n\r\n", NO[]="HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
struct tunnel;
struct end{struct tunnel*t;int fd;unsigned want;int added,eof,shut;int pipe[2];long held;}; // held: bytes in the pipe that go to the other end
struct tunnel{struct end client,origin;int state,got,gone;char head[4096];struct tunnel*next;};
enum{HEAD,DIALING,OPEN};
static int ep; static struct tunnel*dead; static char buf[SMALL];
static int pool[64][2],pooled;
static void want(struct end*e,unsigned w){ if(e->added&&e->want==w)return; struct epoll_event v={.events=w,.data.ptr=e}; epoll_ctl(ep,e->added?EPOLL_CTL_MOD:EPOLL_CTL_ADD,e->fd,&v); e->added=1; e->want=w; }
static void pipe_free(struct end*e){ if(e->pipe[0]<0)return; if(e->held||pooled==64){close(e->pipe[0]);close(e->pipe[1]);} else {pool[pooled][0]=e->pipe[0];pool[pooled++][1]=e->pipe[1];} e->pipe[0]=-1; e->held=0; }
static void end(struct tunnel*t){ if(t->gone)return; t->gone=1; close(t->client.fd); if(t->origin.fd>=0)close(t->origin.fd); pipe_free(&t->client); pipe_free(&t->origin); t->next=dead; dead=t; }
static int pipe_take(struct end*e){ if(pooled){ e->pipe[0]=pool[--pooled][0]; e->pipe[1]=pool[pooled][1]; return 0; } if(pipe2(e->pipe,O_NONBLOCK|O_CLOEXEC)){e->pipe[0]=-1;return -1;} fcntl(e->pipe[1],F_SETPIPE_SZ,PIPE); return 0; }
// Move what is there from one end to the other; small reads by recv and send, a full one changes to splice. -1: the tunnel has ended.
static int move(struct end*a,struct end*b){
  for(int turn=0;turn<16;turn++){
    if(a->pipe[0]<0){ ssize_t r=recv(a->fd,buf,SMALL,0);
      if(r==0){a->eof=1;break;} if(r<0){ if(errno==EAGAIN)return 0; end(a->t); return -1; }
      ssize_t s=send(b->fd,buf,r,MSG_NOSIGNAL); if(s<0&&errno!=EAGAIN){end(a->t);return -1;} if(s<0)s=0;
      if(s==r&&r<SMALL) return 0;
      if(pipe_take(a)){end(a->t);return -1;}
      if(s<r){ a->held=r-s; if(write(a->pipe[1],buf+s,r-s)!=r-s){end(a->t);return -1;} }
      continue; }
    if(a->held<PIPE){ ssize_t r=splice(a->fd,0,a->pipe[1],0,PIPE-a->held,SPLICE_F_NONBLOCK|SPLICE_F_MOVE);
      if(r==0)a->eof=1; else if(r<0&&errno!=EAGAIN){end(a->t);return -1;} else if(r>0)a->held+=r;
      if(a->held==0){ pipe_free(a); if(a->eof)break; return 0; } }
    ssize_t s=splice(a->pipe[0],0,b->fd,0,a->held,SPLICE_F_NONBLOCK|SPLICE_F_MOVE);
    if(s<0&&errno!=EAGAIN){end(a->t);return -1;} if(s>0)a->held-=s; if(a->held==0)pipe_free(a); else return 0; }
  if(a->eof&&!a->held&&!b->shut){ b->shut=1; shutdown(b->fd,SHUT_WR); }
  if(a->shut&&b->shut){ end(a->t); return -1; }
  return 0; }
static unsigned flags(struct end*e,struct end*other){ return (e->eof||e->held?0:EPOLLIN)|(other->held?EPOLLOUT:0); }
static void both(struct tunnel*t){ if(move(&t->client,&t->origin)||move(&t->origin,&t->client))return; want(&t->client,flags(&t->client,&t->origin)); want(&t->origin,flags(&t->origin,&t->client)); }
static void head(struct tunnel*t){
  ssize_t r=recv(t->client.fd,t->head+t->got,sizeof t->head-1-t->got,0); if(r<=0){ if(r<0&&errno==EAGAIN)return; end(t); return; }
  t->got+=r; t->head[t->got]=0; if(!strstr(t->head,"\r\n\r\n")){ if(t->got>=(int)sizeof t->head-1)end(t); return; }
  int port; if(sscanf(t->head,"CONNECT 127.0.0.1:%d HTTP/1.1",&port)!=1){ send(t->client.fd,NO,sizeof NO-1,MSG_NOSIGNAL); end(t); return; }
  struct sockaddr_in a={.sin_family=AF_INET,.sin_port=htons(port),.sin_addr.s_addr=htonl(INADDR_LOOPBACK)}; int one=1;
  t->origin.fd=socket(AF_INET,SOCK_STREAM|SOCK_NONBLOCK|SOCK_CLOEXEC,0); setsockopt(t->origin.fd,IPPROTO_TCP,TCP_NODELAY,&one,sizeof one);
  if(connect(t->origin.fd,(void*)&a,sizeof a)&&errno!=EINPROGRESS){ end(t); return; }
  t->state=DIALING; want(&t->origin,EPOLLOUT); }
static void dialed(struct tunnel*t){ int er=0; socklen_t n=sizeof er; getsockopt(t->origin.fd,SOL_SOCKET,SO_ERROR,&er,&n); if(er||send(t->client.fd,OK,sizeof OK-1,MSG_NOSIGNAL)<0){ end(t); return; }
  t->state=OPEN; want(&t->origin,EPOLLIN); want(&t->client,EPOLLIN); }
int main(int ac,char**av){
  int s=socket(AF_INET,SOCK_STREAM|SOCK_NONBLOCK,0),one=1; setsockopt(s,SOL_SOCKET,SO_REUSEADDR,&one,sizeof one);
  struct sockaddr_in a={.sin_family=AF_INET,.sin_port=htons(ac>1?atoi(av[1]):0),.sin_addr.s_addr=htonl(INADDR_LOOPBACK)}; if(bind(s,(void*)&a,sizeof a)||listen(s,4096)){perror("bind");return 1;}
  socklen_t n=sizeof a; getsockname(s,(void*)&a,&n); printf("%d\n",ntohs(a.sin_port)); fflush(stdout);
  ep=epoll_create1(0); struct epoll_event v={.events=EPOLLIN,.data.ptr=0},ev[256]; epoll_ctl(ep,EPOLL_CTL_ADD,s,&v);
  for(;;){ int k=epoll_wait(ep,ev,256,-1);
    for(int i=0;i<k;i++){ struct end*e=ev[i].data.ptr;
      if(!e){ int fd; while((fd=accept4(s,0,0,SOCK_NONBLOCK|SOCK_CLOEXEC))>=0){ setsockopt(fd,IPPROTO_TCP,TCP_NODELAY,&one,sizeof one); struct tunnel*t=calloc(1,sizeof *t); t->client.t=t->origin.t=t; t->client.fd=fd; t->origin.fd=-1; t->client.pipe[0]=t->origin.pipe[0]=-1; want(&t->client,EPOLLIN); head(t); } continue; }
      struct tunnel*t=e->t; if(t->gone)continue;
      if(t->state==HEAD)head(t); else if(t->state==OPEN)both(t); else if(e==&t->origin)dialed(t); else if(ev[i].events&(EPOLLHUP|EPOLLERR))end(t); }
    while(dead){ struct tunnel*t=dead; dead=t->next; free(t); } } }
