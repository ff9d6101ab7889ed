playground.page.start();
